"""Is the final answer right: GSM8K's convention, as a verifier and as a probe. Imports no jax: configurations hold it.

Reference: Cobbe et al. 2021 (arXiv 2110.14168), section 2: the final answer follows `####`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from jaxpo.config.places import OtherFile
from jaxpo.data.rows.rows import Record
from jaxpo.errors import DataError
from jaxpo.evaluate.intervals import share
from jaxpo.evaluate.perplexity import read_records
from jaxpo.evaluate.probes import Measured, spaced
from jaxpo.sampling.prompts import prompt_of

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext

MARK = "####"
# Answers in flight at once.
ROWS = 128
# Thousands may be grouped by commas; a full stop that ends a sentence is not part of a number.
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def final_answer(text: str) -> Fraction | None:
    """The first number after the last `####`; without that mark the last number of the text; None without a number."""
    _, mark, after = text.rpartition(MARK)
    numbers = _NUMBER.findall(after)
    if not numbers:
        return None
    return Fraction((numbers[0] if mark else numbers[-1]).replace(",", ""))


def grade(text: str, answer: str | int | float) -> bool:
    """Whether a text gives the right final answer: 1 if final_answer(text) = answer, as numbers, else 0.

    Args:
      text: what a model wrote.
      answer: the number, or a text that holds it in the same convention (a GSM8K solution).

    Raises:
      ValueError: the right answer holds no number.
    """
    right = final_answer(str(answer))
    if right is None:
        raise ValueError(f"the right answer {answer!r} holds no number")
    return final_answer(text) == right


def right_answer(record: Record) -> str:
    """Column `answer` of a row, or else its completion, which must hold a number.

    Raises:
      DataError: neither does.
    """
    if "answer" in record.row.data:
        field, answer = "answer", str(record.row.data["answer"])
    else:
        field, answer = "completion", _text(record.sides[0].completion)
    if final_answer(answer) is None:
        raise DataError(
            f"{answer[:60]!r} holds no number to compare with.",
            file=record.row.file,
            row=record.row.number,
            field=field,
            remedy=f"Give a column `answer`, or completions that end in `{MARK} NUMBER`.",
        )
    return answer


@dataclass(frozen=True)
class ExactMatch:
    """Share of greedy answers whose final number is right, in all and per level.

    Attributes:
      files: rows of type prompt_completion with a column `answer`, or completions that end in `#### NUMBER`.
      prompts: how many questions, evenly spaced over the files.
      max_new_tokens: an answer that is longer is graded as far as it got.
      name: prefix of the results.
      by_level: also `NAME_level_1`, ..., where the rows have a column `level`.
    """

    files: tuple[OtherFile, ...]
    prompts: int = 256
    max_new_tokens: int = 48
    name: str = "exact_match"
    by_level: bool = True

    def measure(self, context: ProbeContext) -> Measured:
        records = spaced(read_records(context.files(self.files), "prompt_completion"), self.prompts)
        answers = [right_answer(record) for record in records]
        texts = greedy_answers(
            context.params,
            context.scorer.config,
            context.tokenizer,
            [prompt_of(record) for record in records],
            max_new_tokens=self.max_new_tokens,
            dtype=context.scorer.dtype,
        )
        right = [grade(text, answer) for text, answer in zip(texts, answers, strict=True)]
        levels = [record.row.data.get("level") for record in records]
        results = {self.name: share(sum(right), len(right))}
        if self.by_level:
            for level in sorted({x for x in levels if x is not None}):
                of = [hit for hit, x in zip(right, levels, strict=True) if x == level]
                results[f"{self.name}_level_{level}"] = share(sum(of), len(of))
        return results


def greedy_answers(
    params: Any, config: Any, tokenizer: Any, prompts: list[Any], *, max_new_tokens: int, dtype: str = "float32"
) -> list[str]:
    """The most likely continuation of every prompt, token by token.

    Args:
      params: the model's own tree.
      prompts: texts, or lists of messages.
      dtype: that the model computes in.
    """
    import jax.numpy as jnp

    from jaxpo.sampling.fitted import fitted
    from jaxpo.sampling.request import Request, said
    from jaxpo.sampling.sampler import GREEDY
    from jaxpo.sampling.text import requests_for

    requests = requests_for(tokenizer, prompts, Request((), sampler=GREEDY, max_new_tokens=max_new_tokens))
    engine = fitted(params, config, requests, tokenizer=tokenizer, slots=ROWS, dtype=jnp.dtype(dtype))
    return [said(answer) for answer in engine.generate(requests)]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
