"""Does a model prefer the chosen answer of a pair; see `jaxpo.evaluate.ranking`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxpo.data.rows.rows import Record
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.rendering import Cut
from jaxpo.evaluate.perplexity import read_records
from jaxpo.evaluate.ranking import pair_of, pair_scores, preferred, without_prompts
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored, Task
from jaxpo.evaluate.tasks.files import place, present, spaced
from jaxpo.evaluate.tasks.reading import Score


@dataclass(frozen=True)
class Ranking(Task[Record]):
    """Accuracy of the rule 'the answer with the larger log-prob per token is the chosen one', and controls.

    Attributes:
      controls: also without the prompt.
      max_length: of a prompt with an answer, in tokens; None = what the model has. A longer pair is an error.
    """

    NAME: ClassVar[str] = "ranking"
    ABOUT: ClassVar[str] = "how often the chosen answer of a pair is the more probable"
    NEEDS: ClassVar[str] = "rows of type preference: [prompt,] chosen, rejected"

    controls: bool = True
    max_length: int | None = None

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_length is not None and self.max_length < 2:
            yield f"{self.NAME}.max_length: {self.max_length} must be at least 2."

    def examples(self) -> list[Record]:
        return spaced(read_records([present(self.NAME, self.source or "", self.NEEDS)], "preference"), self.limit)

    def ask(self, example: Record, reader: Reader) -> Ask:
        records = [example, *(without_prompts([example]) if self.controls else ())]
        cut = Cut(self.max_length or reader.context, "error")
        built = Builder(reader.tokenizer, cut, Counter()).examples_of(records)
        return Ask(tuple(side for one in built for side in pair_of(one)), where=place(example.row))

    def scores(self) -> Mapping[str, Score]:
        no_prompt = {"accuracy_no_prompt": Score("the same without the prompt", binary=True)} if self.controls else {}
        return {
            "accuracy": Score("chosen has the larger log-prob per token", binary=True),
            "accuracy_sum": Score("chosen has the larger log-prob", binary=True),
            **no_prompt,
            "accuracy_shorter_wins": Score("the rule 'fewer tokens'", binary=True),
        }

    def score(self, example: Record, reply: Reply) -> Scored:
        pairs = pair_scores(reply.ask.segments, reply.logps)
        mean, total = preferred(pairs.mean_chosen, pairs.mean_rejected), preferred(pairs.chosen, pairs.rejected)
        shorter = preferred(-pairs.chosen_tokens, -pairs.rejected_tokens)
        values = {"accuracy": mean[0], "accuracy_sum": total[0], "accuracy_shorter_wins": shorter[0]}
        if self.controls:
            values["accuracy_no_prompt"] = mean[1]
        side = example.sides
        return Scored(
            {name: float(value) for name, value in values.items()},
            prompt=shown(side[0].prompt),
            answer=shown(side[1].completion),
            expected=shown(side[0].completion),
            worst=float(np.subtract(pairs.mean_rejected, pairs.mean_chosen)[0]),
        )


def shown(text: object) -> str:
    """A text, or the last message's content."""
    if isinstance(text, list):
        return str(text[-1].get("content", "")) if text else ""
    return "" if text is None else str(text)
