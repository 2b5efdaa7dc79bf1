"""Several numbers about an answer: the heads of a reward model, or a judge for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxpo.construct.base import Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item
from jaxpo.judges.named import JudgeOptions


@dataclass(frozen=True)
class AttributeOptions:
    """What answers are measured by.

    Attributes:
      attributes: names; () = those of the heads of --reward.
      judges: a judge for each attribute, as of `--judge`; () = the heads of --reward (a stage with `rating`).
    """

    attributes: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()

    def attribute_problems(self) -> list[str]:
        """What does not go together."""
        if self.judges and len(self.judges) != len(self.attributes):
            return [
                f"--judges has {len(self.judges)} entries for {len(self.attributes)} attributes; give one for each."
            ]
        if self.attributes and len(set(self.attributes)) < len(self.attributes):
            return [f"--attributes is {self.attributes!r} but must be different names."]
        return []

    def attribute_networks(self) -> tuple[str, ...]:
        """The networks that measuring needs."""
        return () if self.judges and "reward" not in self.judges else ("reward",)

    def measure(
        self, rows: Sequence[Row], prompts: Sequence[Text], answers: Sequence[str], tools: Tools
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Names, and values `[n, m]`; NaN where a judge failed or there is no answer."""
        here = [i for i, answer in enumerate(answers) if answer.strip()]
        if self.judges:
            names = self.attributes
            columns: list[list[float]] = []
            items = [Item(prompts[i], answers[i], rows[i]) for i in here]
            for word in self.judges:
                found = tools.judged(replace(JudgeOptions(), judge=(word,)).judges(), items)
                columns.append([found.get(item.key(None), np.nan) for item in items])
            values = np.asarray(columns, np.float64).reshape(len(names), len(here)).T
        else:
            names, values = tools.network("reward").heads([prompts[i] for i in here], [answers[i] for i in here])
            if self.attributes and self.attributes != names:
                raise ConfigError(
                    f"--attributes is {self.attributes!r}, but the reward model rates {', '.join(names)}."
                )
        every = np.full((len(answers), len(names)), np.nan)
        every[here] = values
        return names, every
