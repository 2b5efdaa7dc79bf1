"""Token-level direct preference optimisation, its first form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class TDPO1(PairMethod):
    """DPO with the difference of the two sides' sequential KL divergences, both of them trained.

    Attributes:
      beta: strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="tdpo1",
        family="pairs",
        paper="Token-level Direct Preference Optimization",
        arxiv="2404.11999",
        certainty="authors' code",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),))
    METRICS = ("kl/chosen", "kl/rejected")

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import tdpo1

        return tdpo1(*pair.logps, *pair.kls, beta=self.beta, where=pair.present)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`kl/chosen`, `kl/rejected`: KL(reference || policy) summed over a response."""
        from jaxpo.objectives.base import masked_mean

        chosen, rejected = pair.kls
        return {"kl/chosen": masked_mean(chosen, pair.present), "kl/rejected": masked_mean(rejected, pair.present)}
