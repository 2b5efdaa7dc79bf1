"""Pairs of what an earlier stage's model writes, as a stage of a recipe: what all such stages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.least import below
from jaxpo.construct.on_policy.samples import Sample, draw_samples
from jaxpo.construct.stage import split
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import DataError
from jaxpo.judges.questions import Question, read_questions
from jaxpo.sampling.sampler import Sampler

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.judges.network import Network

PAIRS, HELD_OUT = "pairs.jsonl", "heldout_pairs.jsonl"


@dataclass(frozen=True)
class OwnPairs(Work):
    """Pairs of what an earlier stage's model writes.

    Writes `pairs.jsonl` and `heldout_pairs.jsonl`; no prompt is in both.

    Attributes:
      prompts: files whose rows have a prompt.
      model: the stage that answers: the last iterate.
      skip_prompts: the first so many rows are not used: an earlier round had them.
      max_prompts: only so many rows after these; None = all.
      heldout_one_in: about one prompt in so many is held out, and at least one.
    """

    LEAST: ClassVar[Mapping[str, float]] = {}
    """The smallest values of a subclass's own options."""

    name: str = "pairs"
    prompts: tuple[OtherFile, ...] = ()
    model: str = "previous"
    skip_prompts: int = 0
    max_prompts: int | None = None
    heldout_one_in: int = 20

    def outputs(self) -> tuple[str, ...]:
        return (PAIRS, HELD_OUT)

    def inputs(self) -> tuple[str, ...]:
        return self.prompts

    def needed_models(self) -> tuple[str, ...]:
        return (self.model,)

    def problems(self) -> list[str]:
        found = super().problems() + below(self, {"skip_prompts": 0, "heldout_one_in": 2, **self.LEAST})
        return found if self.prompts else [*found, "prompts names no file."]

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.questions(files)

    def rows(self, files: Sequence[Path]) -> list[Row]:
        """The rows of this round: so many after those of earlier rounds.

        Raises:
          DataError: none is left; names the stage.
        """
        end = None if self.max_prompts is None else self.skip_prompts + self.max_prompts
        rows = list(islice(read_rows(files), self.skip_prompts, end))
        if not rows:
            raise DataError(
                f"no rows are left for {self.name} after skip_prompts {self.skip_prompts}.",
                file=files[0],
                remedy="Give more prompts, fewer per round, or fewer rounds.",
            )
        return rows

    def questions(self, files: Sequence[Path]) -> list[Question]:
        """What the rows of this round ask."""
        return read_questions(self.rows(files))

    def write(
        self, rows: Sequence[dict[str, Any]], folder: Path, read: Mapping[str, int], figures: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Both files of `rows`; returns the report: what was read, the sizes of the files, and the figures.

        Raises:
          DataError: there are none of two prompts; the report is told.
        """
        trained, held_out = split(rows, self.heldout_one_in)
        report = {**read, "pairs": len(trained), "heldout_pairs": len(held_out), **figures}
        if not trained or not held_out:
            said = ", ".join(f"{name} {n}" for name, n in report.items() if isinstance(n, int | float))
            raise DataError(f"stage {self.name}: pairs of two prompts at least are needed: {said}.")
        write_jsonl(folder / PAIRS, trained)
        write_jsonl(folder / HELD_OUT, held_out)
        return report


@dataclass(frozen=True)
class DrawnPairs(OwnPairs):
    """Pairs of whole answers that are drawn independently of one another.

    Attributes:
      samples: answers to every prompt.
      temperature, top_p, max_new_tokens: of the answers.
      max_rows: answers that are drawn at once.
    """

    LEAST: ClassVar[Mapping[str, float]] = {"samples": 2, "max_new_tokens": 1, "max_rows": 1}

    samples: int = 5
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    max_rows: int = 64

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0: all answers would be alike.")
        if not 0 < self.top_p <= 1:
            found.append(f"top_p is {self.top_p} but must be greater than 0 and at most 1.")
        return found

    def draw(
        self, questions: Sequence[Question], network: Network, context: WorkContext, counts: Counter[str]
    ) -> dict[int, list[Sample]]:
        """The answers to every question that leaves room for them, by its number."""
        return draw_samples(
            questions,
            network,
            context.folder,
            n=self.samples,
            sampler=Sampler(temperature=self.temperature, top_p=self.top_p),
            max_new_tokens=self.max_new_tokens,
            seed=context.seed,
            max_rows=self.max_rows,
            counts=counts,
            say=context.say,
            check=context.check,
        )
