"""DPA: for a drawn direction, several answers that were asked for by it, and the best of them along it to be learnt.

Reference: arXiv:2402.18571, preference-conditioned rejection-sampling fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.rps.attributes import AttributeOptions
from jaxpo.construct.rps.directions import TEXT, cap, conditioned, percent, unit
from jaxpo.construct.rps.selection import projections, select
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import Text, text_of_column
from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class Directed:
    """Of which directions, and how a prompt says one.

    Attributes:
      centre: weights of the attributes in the middle of the cone that is trained; its length does not matter.
      cone: degrees around the centre.
      text: what stands before a prompt; {weights} is replaced by the names with round(100 v).
    """

    centre: tuple[float, ...] = (1.0, 0.0)
    cone: float = 45.0
    text: str = TEXT

    def cone_problems(self) -> list[str]:
        """What is out of range."""
        found = []
        if len(self.centre) < 2 or not any(self.centre):
            found.append(f"--centre is {self.centre!r} but must be weights of two attributes at least.")
        if not 0 <= self.cone <= 180:
            found.append(f"--cone is {self.cone} but must be degrees in 0 .. 180.")
        if "{weights}" not in self.text:
            found.append("--text must hold {weights}, in whose place the weights stand.")
        return found

    def check_names(self, names: Sequence[str], direction: Sequence[float]) -> None:
        """As many attributes as weights."""
        if len(names) != len(direction):
            raise ConfigError(f"there are {len(names)} attributes ({', '.join(names)}) for {len(direction)} weights.")


@dataclass(frozen=True)
class DPA(Directed, AttributeOptions, Construction):
    """Fine-tuning rows for directions: prompt with the weights, and the best of n answers along them.

    One round; a recipe repeats it with the model that was fine-tuned, as the released one does.

    Attributes:
      n: answers of which the best is kept.
      temperature, top_k, max_new_tokens: of the sampling.
    """

    n: int = 8
    temperature: float = 0.7
    top_k: int = 0
    max_new_tokens: int = 128

    NAME = "dpa"
    READS = "prompts"
    WRITES = "prompt with weights, completion, direction, rewards: {name: number}, score"

    def problems(self) -> list[str]:
        found = not_positive(n=self.n, temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        return found + self.cone_problems() + self.attribute_problems()

    def needed_networks(self) -> tuple[str, ...]:
        return ("model", *self.attribute_networks())

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rows = [canonical(row) for row in rows]
        prompts = [text_of_column(row, "prompt") for row in rows]
        v = cap(unit(self.centre), self.cone, len(rows), np.random.default_rng(tools.seed))
        names = self.names(tools)
        self.check_names(names, self.centre)
        asked = [conditioned(p, names, percent(x), self.text) for p, x in zip(prompts, v, strict=True)]
        answers = tools.generate(
            asked, self.n, temperature=self.temperature, top_k=self.top_k, max_new_tokens=self.max_new_tokens
        )
        flat = [answer for own in answers for answer in own]
        each = [i for i in range(len(rows)) for _ in range(self.n)]
        _, values = self.measure([rows[i] for i in each], [prompts[i] for i in each], flat, tools)
        rewards = values.reshape(len(rows), self.n, len(names))
        chosen, scores = select(rewards, v), projections(rewards, v)
        for i, (prompt, k) in enumerate(zip(asked, chosen.tolist(), strict=True)):
            if k < 0:
                tools.count("rows_left_out_without_an_answer")
                continue
            yield {
                "prompt": prompt,
                "completion": as_completion(answers[i][k], prompt),
                "direction": v[i].tolist(),
                "rewards": dict(zip(names, rewards[i, k].tolist(), strict=True)),
                "score": float(scores[i, k]),
            }

    def names(self, tools: Tools) -> tuple[str, ...]:
        """Of the attributes, before anything is written."""
        if self.judges or self.attributes:
            return self.attributes
        reader = tools.network("reward").reader
        if reader is None:
            raise ConfigError("the reward model has no heads to read; name a reward stage.")
        found: tuple[str, ...] = reader.method.head_names()
        return found


def as_completion(answer: str, prompt: Text) -> Text:
    """An answer in the form of its prompt."""
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
