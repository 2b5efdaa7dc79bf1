"""On-policy preference pairs as a stage of a recipe: from the models of earlier stages to files for later ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.construct.on_policy.own_pairs import OwnPairs
from jaxpo.construct.on_policy.pairing import make_pairs
from jaxpo.construct.on_policy.workshop import PairOptions, Workshop
from jaxpo.judges import Judge, VerifierJudge
from jaxpo.judges.refine import Refiner

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext


@dataclass(frozen=True)
class OnPolicyPairs(PairOptions, OwnPairs):
    """Samples of an earlier stage's model and the given answers, judged: the best against the worst.

    Attributes:
      prompts: files of type prompt_completion, messages, preference or prompt.
      judge: one of `jaxpo.judges`; `RewardJudge("NAME")` takes the model of the stage NAME.
      refiner: None, or one of `jaxpo.judges.refine`.
      max_length: pairs with more tokens (prompt and the longer answer) are left out.
    """

    name: str = "on_policy"
    judge: Any = field(default_factory=VerifierJudge)
    refiner: Any = None
    max_length: int = 1024

    def needed_models(self) -> tuple[str, ...]:
        models = self.judge.models() if isinstance(self.judge, Judge) else ()
        return tuple(dict.fromkeys((self.model, *models)))

    def reward_models(self) -> tuple[str, ...]:
        return self.judge.reward_models() if isinstance(self.judge, Judge) else ()

    def problems(self) -> list[str]:
        found = PairOptions.problems(self) + OwnPairs.problems(self)
        if not isinstance(self.judge, Judge):
            found.append(f"judge is {self.judge!r}; give one of jaxpo.judges.")
        if not isinstance(self.refiner, Refiner | None):
            found.append(f"refiner is {self.refiner!r}; give one of jaxpo.judges.refine.")
        for part in (self.judge, self.refiner):
            if isinstance(part, Judge | Refiner):
                found += part.problems()
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.judge.check([question.row for question in self.questions(files)])

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
        rows = self.rows(context.files(self.prompts))
        pairs = list(make_pairs(rows, self.judge, self.refiner, shop))
        return self.write(pairs, context.folder, {"rows": len(rows)}, sorted_counts(shop))


def sorted_counts(shop: Workshop) -> dict[str, Any]:
    """Every count, and the commonest reasons of failures that remained."""
    failures = {"failures": dict(shop.failures.most_common(5))} if shop.failures else {}
    return {**dict(sorted(shop.counts.items())), **failures}
