"""WorldPM's pairs: two answers to a post, the one with more votes is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical, detect, read_record
from jaxpo.data.rows.texts import Text, text_of_column


@dataclass(frozen=True)
class WorldPM(Construction):
    """Pairs of two answers with different net votes, drawn from every post that has such.

    Attributes:
      pairs_per_post: drawn without replacement among the post's pairs.
      least_margin: of net votes, between the two.
      most_margin: likewise; None = any.
      system: a system prompt that every conversation begins with; the paper's is empty, --system "". None = none, and
        prompts stay as they are.
    """

    pairs_per_post: int = 1
    least_margin: float = 1.0
    most_margin: float | None = None
    system: str | None = None

    NAME = "worldpm"
    READS = "prompt, responses, scores: the net votes of each"
    WRITES = "prompt, chosen, rejected, vote_margin"

    def problems(self) -> list[str]:
        found = []
        if self.pairs_per_post < 1:
            found.append(f"--pairs-per-post is {self.pairs_per_post} but must be at least 1.")
        if not self.least_margin > 0:
            found.append(f"--least-margin is {self.least_margin} but must be above 0: equal votes prefer neither.")
        if self.most_margin is not None and not self.most_margin >= self.least_margin:
            found.append(f"--most-margin is {self.most_margin}, below --least-margin {self.least_margin}.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(tools.seed)
        for row in map(canonical, rows):
            if (kind := detect(row)) != "list":
                raise row.error(f"is of type {kind!r}.", remedy="Give prompt, responses and scores (net votes).")
            record = read_record(row, "list", extras=("scores",))
            texts, votes = [side.completion for side in record.sides], np.asarray(record.columns["scores"], np.float64)
            pairs = self._pairs(texts, votes)
            if not len(pairs):
                tools.count("posts_without_a_pair")
                continue
            for better, worse in pairs[rng.permutation(len(pairs))[: self.pairs_per_post]].tolist():
                yield {
                    **({"group": row.data["group"]} if "group" in row.data else {}),
                    "prompt": self._prompt(text_of_column(row, "prompt")),
                    "chosen": self._answer(texts[better]),
                    "rejected": self._answer(texts[worse]),
                    "vote_margin": float(votes[better] - votes[worse]),
                }

    def _pairs(self, texts: Sequence[Text], votes: np.ndarray) -> np.ndarray:
        """Better and worse of every two answers, both with a text, whose votes differ as they should."""
        gap = votes[:, None] - votes[None]
        there = np.asarray([bool(text) for text in texts])
        right = (gap >= self.least_margin) & there[:, None] & there
        return np.argwhere(right if self.most_margin is None else right & (gap <= self.most_margin))

    def _prompt(self, prompt: Text) -> Text:
        if self.system is None:
            return prompt
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return [{"role": "system", "content": self.system}, *turns]

    def _answer(self, text: Text) -> Text:
        if self.system is None or not isinstance(text, str):
            return text
        return [{"role": "assistant", "content": text}]
