"""On-policy preference pairs as a stage of a recipe: from the models of earlier stages to files for later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.on_policy.pairing import make_pairs
from jaxpo.construct.on_policy.workshop import PairOptions, Workshop
from jaxpo.construct.stage import split
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import DataError
from jaxpo.judges import Judge, VerifierJudge
from jaxpo.judges.questions import read_questions
from jaxpo.judges.refine import Refiner

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

PAIRS, HELD_OUT = "pairs.jsonl", "heldout_pairs.jsonl"


@dataclass(frozen=True)
class OnPolicyPairs(PairOptions, Work):
    """Samples of an earlier stage's model and the given answers, judged: the best against the worst.

    Writes `pairs.jsonl` and `heldout_pairs.jsonl`; no prompt is in both.

    Attributes:
      prompts: files of type prompt_completion, messages, preference or prompt.
      model: the stage that answers.
      judge: one of `jaxpo.judges`; `RewardJudge("NAME")` takes the model of the stage NAME.
      refiner: None, or one of `jaxpo.judges.refine`.
      max_length: pairs with more tokens (prompt and the longer answer) are left out.
      skip_prompts: the first so many rows are not used: an earlier round had them.
      max_prompts: only so many rows after these; None = all.
      heldout_one_in: about one prompt in so many is held out, and at least one.
    """

    name: str = "on_policy"
    prompts: tuple[OtherFile, ...] = ()
    model: str = "previous"
    judge: Any = field(default_factory=VerifierJudge)
    refiner: Any = None
    max_length: int = 1024
    skip_prompts: int = 0
    max_prompts: int | None = None
    heldout_one_in: int = 20

    def outputs(self) -> tuple[str, ...]:
        return (PAIRS, HELD_OUT)

    def inputs(self) -> tuple[str, ...]:
        return self.prompts

    def needed_models(self) -> tuple[str, ...]:
        models = self.judge.models() if isinstance(self.judge, Judge) else ()
        return tuple(dict.fromkeys((self.model, *models)))

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.prompts:
            found.append("prompts names no file.")
        if self.skip_prompts < 0:
            found.append(f"skip_prompts is {self.skip_prompts} but must be at least 0.")
        if self.heldout_one_in < 2:
            found.append(f"heldout_one_in is {self.heldout_one_in} but must be at least 2.")
        if not isinstance(self.judge, Judge):
            found.append(f"judge is {self.judge!r}; give one of jaxpo.judges.")
        if not isinstance(self.refiner, Refiner | None):
            found.append(f"refiner is {self.refiner!r}; give one of jaxpo.judges.refine.")
        for part in (self.judge, self.refiner):
            if isinstance(part, Judge | Refiner):
                found += part.problems()
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.judge.check([question.row for question in read_questions(self._rows(files))])

    def _rows(self, files: Sequence[Path]) -> list[Row]:
        return rows_after(files, self.skip_prompts, self.max_prompts, self.name)

    def run(self, context: WorkContext) -> dict[str, Any]:
        @cache
        def network(name: str) -> Any:
            return context.network(self.model if name == "model" else name, self.max_length)

        shop = Workshop(
            self.pair_options,
            network,
            context.folder,
            context.seed,
            self.max_length,
            say=context.say,
            check=context.check,
        )
        rows = self._rows(context.files(self.prompts))
        pairs = list(make_pairs(rows, self.judge, self.refiner, shop))
        trained, held_out = split(pairs, self.heldout_one_in)
        report = {"rows": len(rows), "pairs": len(trained), "heldout_pairs": len(held_out), **sorted_counts(shop)}
        if not trained or not held_out:
            said = ", ".join(f"{name} {n}" for name, n in report.items() if isinstance(n, int))
            raise DataError(f"stage {self.name}: pairs of two prompts at least are needed: {said}.")
        write_jsonl(context.folder / PAIRS, trained)
        write_jsonl(context.folder / HELD_OUT, held_out)
        return report


def rows_after(files: Sequence[Path], skip: int, count: int | None, name: str) -> list[Row]:
    """The rows of a round: so many after those of earlier rounds.

    Raises:
      DataError: none is left; names the stage.
    """
    rows = list(islice(read_rows(files), skip, None if count is None else skip + count))
    if not rows:
        raise DataError(
            f"no rows are left for {name} after skip_prompts {skip}.",
            file=files[0],
            remedy="Give more prompts, fewer per round, or fewer rounds.",
        )
    return rows


def sorted_counts(shop: Workshop) -> dict[str, Any]:
    """Every count, and the commonest reasons of failures that remained."""
    failures = {"failures": dict(shop.failures.most_common(5))} if shop.failures else {}
    return {**dict(sorted(shop.counts.items())), **failures}
