"""The prompts of a stage with an environment: how it opens the conversation of each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError
from jaxpo.online.answers import Prompt
from jaxpo.online.environments.base import EnvironmentOf
from jaxpo.online.prompts import Prompts
from jaxpo.sampling.prompts import Conversation
from jaxpo.sampling.text import encode_prompt


class Openings(Prompts):
    """As `Prompts`, with the messages of `Environment.reset` in the place of the row's.

    Args:
      longest: tokens that a prompt may have.
    """

    def __init__(
        self, dataset: Dataset, environment: EnvironmentOf, *, seed: int, longest: int, shuffle: bool = True
    ) -> None:
        super().__init__(dataset, seed=seed, shuffle=shuffle)
        self.environment, self.longest = environment, longest

    def at(self, number: int) -> Prompt:
        """One prompt.

        Raises:
          DataError: a row that cannot be played, or whose opening is longer than a prompt may be.
        """
        row = super().at(number)
        where: dict[str, Any] = {"file": Path(row.file), "row": row.row}
        if (why := self.environment.check(row.columns)) is not None:
            raise DataError(why, **where, remedy=f"Add it to every row, as {self.environment.NAME} reads it.")
        messages = [dict(message) for message in self.environment.open().reset(dict(row.columns))]
        ids = encode_prompt(self.dataset.tokenizer, Conversation(messages, self.environment.tools()))
        if len(ids) > self.longest:
            raise DataError(
                f"opens with {len(ids)} tokens, and a prompt may have {self.longest}.",
                **where,
                remedy="Raise data.max_length, or lower max_completion_length.",
            )
        return replace(row, ids=np.asarray(ids, np.int32), text=messages)


def prompts_of(stage: Any, dataset: Dataset, seed: int, *, shuffle: bool) -> Prompts:
    """The prompts of a dataset, or how the environment of a `jaxpo.config.Online` opens their conversations."""
    if stage.environment is None:
        return Prompts(dataset, seed=seed, shuffle=shuffle)
    return Openings(dataset, stage.environment, seed=seed, longest=stage.longest_prompt, shuffle=shuffle)
