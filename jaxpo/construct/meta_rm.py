"""MetaRM's sets: answers of the present policy to the prompts of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical, detect
from jaxpo.data.rows.segments import MOST_SAMPLES
from jaxpo.data.rows.texts import text_of_column


@dataclass(frozen=True)
class MetaRM(Construction):
    """Pairs with `samples`: k answers that a policy draws to each prompt. Another --seed draws others: one per round.

    Attributes:
      samples: k, 8 at most.
      temperature, top_k, max_new_tokens: of the samples.
    """

    samples: int = 4
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128

    NAME = "meta_rm"
    READS = "pairs"
    WRITES = "the same pairs with samples: [answer]"

    def problems(self) -> list[str]:
        found = not_positive(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        if not 2 <= self.samples <= MOST_SAMPLES:
            found.append(f"--samples is {self.samples} but must be from 2 to {MOST_SAMPLES}.")
        return found

    def needed_networks(self) -> tuple[str, ...]:
        return ("model",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        pairs = [canonical(row) for row in rows]
        for row in pairs:
            if (kind := detect(row)) != "preference":
                raise row.error(f"is of type {kind!r}.", remedy="Give prompt, chosen and rejected.")
        prompts = [text_of_column(row, "prompt") for row in pairs]
        how: Any = {"temperature": self.temperature, "top_k": self.top_k, "max_new_tokens": self.max_new_tokens}
        for row, answers in zip(pairs, tools.generate(prompts, self.samples, **how), strict=True):
            # An empty answer has no reward.
            kept = [text for text in answers if text.strip()]
            tools.count("empty_samples", len(answers) - len(kept))
            yield {**row.data, "samples": kept}
