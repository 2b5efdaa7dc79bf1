"""RAT: what a user is like is written first. Pairs of descriptions, responses given one, and answers in two steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.fspo.layout import DESCRIPTION, PREFERRED, as_answer, described, headed
from jaxpo.construct.lcpo import read_pairs
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text, string, text_of_column

STOP = ("\n## ", "\n# ")
"""The headings that end a description."""


@dataclass(frozen=True)
class FSPODescriptions(Construction):
    """Of few-shot pairs with the user's true description: pairs of descriptions, or the responses given it.

    Attributes:
      part: "descriptions": --model writes some, that nearest to the true one is chosen, the farthest rejected.
        "responses": the row's pair, whose prompt says the true description.
      n: descriptions that are written for a row.
      closeness: to the true description: F1 of the "words", or cosine of the "embedding" by --model.
      temperature, top_k, max_new_tokens: of the writing.
    """

    part: Literal["descriptions", "responses"] = "descriptions"
    n: int = 4
    closeness: Literal["words", "embedding"] = "words"
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64

    NAME = "fspo_descriptions"
    READS = "few-shot pairs (what fspo makes) with a column `description` of the user"
    WRITES = (
        "prompt, chosen, rejected: descriptions under the few-shot prompt; or responses, the prompt with description"
    )

    def problems(self) -> list[str]:
        found = not_positive(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        return found + ([f"--n is {self.n} but a pair needs 2."] if self.n < 2 else [])

    def needed_networks(self) -> tuple[str, ...]:
        return ("model",) if self.part == "descriptions" else ()

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        records = read_pairs(rows)
        gold = [description_of(record.row) for record in records]
        prompts = [record.sides[0].prompt or "" for record in records]
        if self.part == "responses":
            for record, prompt, text in zip(records, prompts, gold, strict=True):
                yield record.row.data | {"prompt": described(prompt, text)}
            return
        written = describe(prompts, self.n, tools, self.temperature, self.top_k, self.max_new_tokens)
        for record, prompt, texts, true in zip(records, prompts, written, gold, strict=True):
            near = self.nearness(texts, true, tools)
            best, worst = int(np.argmax(near)), int(np.argmin(near))
            if near[best] == near[worst]:
                tools.count("rows_left_out_equally_near")
                continue
            pair = {"chosen": texts[best], "rejected": texts[worst]}
            sides = {side: as_answer(headed(DESCRIPTION, text), prompt) for side, text in pair.items()}
            about = {k: v for k, v in record.row.data.items() if k in ("user", "description")}
            yield {"prompt": prompt, **sides, "margin": float(near[best] - near[worst]), **about}

    def nearness(self, texts: Sequence[str], true: str, tools: Tools) -> np.ndarray:
        """How near each description is to the true one, float64 `[n]`."""
        if self.closeness == "words":
            return np.asarray([words_f1(text, true) for text in texts])
        vectors = tools.embed([*texts, true]).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found: np.ndarray = vectors[:-1] @ vectors[-1]
        return found


@dataclass(frozen=True)
class FSPOAnswers(Construction):
    """Answers to few-shot prompts by --model: first who the user is, then the answer; or the answer alone.

    Attributes:
      describe: write the description first (RAT); a model must have learnt it.
      temperature, top_k, max_new_tokens: of the writing, of description and answer each.
    """

    describe: bool = True
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64

    NAME = "fspo_answers"
    READS = "few-shot prompts (what fspo makes)"
    WRITES = "prompt, completion, and `description` where it is written first"

    def problems(self) -> list[str]:
        return not_positive(max_new_tokens=self.max_new_tokens)

    def needed_networks(self) -> tuple[str, ...]:
        return ("model",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        prompts = [text_of_column(row, "prompt") for row in rows]
        settings = (self.temperature, self.top_k, self.max_new_tokens)
        found = [[""]] * len(rows)
        if self.describe:
            found = describe(prompts, 1, tools, *settings)
        given = [described(p, d) if self.describe else p for p, (d,) in zip(prompts, found, strict=True)]
        answers = written_after(PREFERRED, given, 1, tools, *settings)
        for row, prompt, (description,), (answer,) in zip(rows, prompts, found, answers, strict=True):
            about = {k: v for k, v in row.data.items() if k == "user"}
            new = {"prompt": prompt, "completion": as_answer(answer, prompt), **about}
            yield new | ({"description": description} if self.describe else {})


def describe(prompts: Sequence[Text], n: int, tools: Tools, *settings: Any) -> list[list[str]]:
    """n descriptions of the user of each few-shot prompt."""
    return written_after(DESCRIPTION, prompts, n, tools, *settings)


def written_after(
    heading: str, prompts: Sequence[Text], n: int, tools: Tools, temperature: float, top_k: int, max_new_tokens: int
) -> list[list[str]]:
    """What --model writes under a heading that begins its answer, up to the next heading."""
    found = tools.network("model").generate(
        prompts,
        n,
        temperature=temperature,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=tools.seed,
        begun=[f"{heading}\n"] * len(prompts),
        stop=STOP,
    )
    return [[text.strip() for text in texts] for texts in found]


def description_of(row: Row) -> str:
    """The user's true description."""
    if "description" not in row.data:
        raise row.error("there is no description.", field="description", remedy="Add what the row's user is like.")
    return string(row, "description", row.data["description"], empty_ok=False)


def words_f1(text: str, true: str) -> float:
    """Harmonic mean of the shares of words, repetitions counted, that two texts have in common."""
    a, b = Counter(text.lower().split()), Counter(true.lower().split())
    common = sum((a & b).values())
    return 2.0 * common / max(sum(a.values()) + sum(b.values()), 1)
