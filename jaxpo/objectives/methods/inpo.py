"""Iterative Nash policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair

PREVIOUS = "previous"


@dataclass(frozen=True)
class INPO(PairMethod):
    """A step of mirror descent towards the Nash policy, from the last iterate and tied to a fixed reference.

    Two networks stand beside the policy: `previous`, the last iterate, which is the model that the stage starts from,
    and `reference`, which `beside.reference` names from the second round on.

    Attributes:
      eta: inverse step size; 1 / (2 eta) nats are the target of the margin.
      tau: strength of the tie to the reference, at most eta; None = eta / 3.
    """

    eta: float = number(0.005, above=0)
    tau: float | None = number(None, above=0)

    INFO = Info(
        name="inpo",
        family="pairs",
        paper="Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        arxiv="2407.00617",
        certainty="paper, Eq. 7 and its appendix B; tau = 0, which the paper ablates, is left out",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), networks=((REFERENCE, "logps"), (PREVIOUS, "logps")))

    def problems(self) -> list[str]:
        found = super().problems()
        if self.tau is not None and self.tau > self.eta:
            found.append(
                f"inpo: tau is {self.tau:g} but must be at most eta, {self.eta:g}: the last iterate would weigh less "
                "than nothing."
            )
        return found

    @property
    def share(self) -> float:
        """tau / eta, the reference's."""
        return 1.0 / 3.0 if self.tau is None else self.tau / self.eta

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import inpo

        before = (pair.chosen.sums[f"{PREVIOUS}_logps"], pair.rejected.sums[f"{PREVIOUS}_logps"])
        return inpo(*pair.logps, *before, eta=self.eta, tau=self.tau, where=pair.present)

    def reward(self, side: Side) -> Array:
        """`eta (P - (tau / eta) R - (1 - tau / eta) Q)`: the win rate against the last iterate, up to a constant."""
        previous = side.sums[f"{PREVIOUS}_logps"]
        return self.eta * (side.logps - self.share * side.ref_logps - (1.0 - self.share) * previous)
