"""The probe of final answers, and greedy answers. Imports no jax: configurations hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.config.places import OtherFile
from jaxpo.evaluate.final_answer import right_answer
from jaxpo.evaluate.perplexity import read_records
from jaxpo.evaluate.probes import Measured
from jaxpo.evaluate.tasks.base import measure
from jaxpo.evaluate.tasks.exact_match import ExactMatch as Graded
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.sampling.prompts import prompt_of

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext


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
        for record in records:
            right_answer(record)
        texts = greedy_answers(
            context.params,
            context.scorer.config,
            context.tokenizer,
            [prompt_of(record) for record in records],
            max_new_tokens=self.max_new_tokens,
            dtype=context.scorer.dtype,
        )
        task = Graded()
        scored = [task.graded_texts(record, [text]) for record, text in zip(records, texts, strict=True)]
        found = measure(scored if self.by_level else [replace(one, groups=()) for one in scored], task.scores())
        return {name.replace(task.NAME, self.name, 1): result for name, result in found.items()}


def greedy_answers(
    params: Any, config: Any, tokenizer: Any, prompts: list[Any], *, max_new_tokens: int, dtype: str = "float32"
) -> list[str]:
    """The most likely continuation of every prompt, token by token.

    Args:
      params: the model's own tree.
      prompts: texts, or lists of messages.
      dtype: that the model computes in.
    """
    from jaxpo.evaluate.subject import Subject
    from jaxpo.evaluate.tasks.base import Reader
    from jaxpo.models.family import limits
    from jaxpo.objectives.encode import Scorer
    from jaxpo.sampling.request import said

    reader = Reader(tokenizer, limits(config).context)
    subject = Subject(params, Scorer(config, dtype=dtype), reader, (tokenizer.eos_id,))
    return [said(answer) for answer in subject.greedy(prompts, max_new_tokens)]
