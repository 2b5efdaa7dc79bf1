"""Few-shot preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class FSPO(PairMethod):
    """IPO or DPO on prompts that show a user's earlier choices, which `jaxpo data construct fspo` makes.

    Attributes:
      form: "ipo" on sums (the paper's main loss), or "dpo".
      beta: tau of IPO, strength of the tie to the reference.
      label_smoothing: probability that a label is flipped; of the form dpo.
      balance_users: average over users first, whose names are the column `user`, not over the pairs of a step as they
        come; the loss then couples the step.
    """

    form: Literal["ipo", "dpo"] = "ipo"
    beta: float = number(0.01, above=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)
    balance_users: bool = False

    INFO = Info(
        name="fspo",
        family="pairs",
        paper="FSPO: Few-Shot Optimization of Synthetic Preferences Effectively Personalizes to Real Users",
        arxiv="2502.19312",
        certainty="authors' code; the mean over users from third-party notes, RAT's pair loss is reconstructed",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def __post_init__(self) -> None:
        if self.balance_users:
            object.__setattr__(self, "COUPLED", True)
            object.__setattr__(self, "NEEDS", replace(PAIRS_AND_REFERENCE, columns=("user",), new_names=("user",)))

    def problems(self) -> list[str]:
        found = super().problems()
        if self.form == "ipo" and self.label_smoothing:
            found.append("fspo: label_smoothing is of the form dpo; ipo has none. Set it to 0, or form to dpo.")
        return found

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import fspo, user_weights

        weight = user_weights(pair.columns["user"], where=pair.present) if self.balance_users else None
        return fspo(
            *pair.logps,
            weight,
            form=self.form,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            where=pair.present,
        )
