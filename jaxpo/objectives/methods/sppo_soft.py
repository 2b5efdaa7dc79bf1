"""Self-play preference optimisation with win probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class SPPOSoft(PairMethod):
    """Regression of each side's log-ratio on its win probability, the share of votes it won.

    One run is one round of the paper's self-play: the reference is the policy that wrote the responses.

    Attributes:
      beta: 1 / eta; log-ratios are driven to (share of votes - 1/2) / beta.
    """

    beta: float = number(1e-3, above=0)

    INFO = Info(
        name="sppo_soft",
        family="pairs",
        paper="Self-Play Preference Optimization for Language Model Alignment",
        arxiv="2405.00675",
        certainty="paper, Eq. 4.7; the authors' code halves the sum of the two sides and estimates win probabilities "
        "with PairRM, here they are shares of votes",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), columns=("votes",), networks=(("reference", "logps"),))

    def loss(self, pair: Pair) -> Array:
        import jax.numpy as jnp

        from jaxpo.losses import sppo_soft

        votes = jnp.where(pair.present[:, None], pair.columns["votes"], 1.0)
        shares = votes / jnp.sum(votes, axis=1, keepdims=True)
        sides = ((pair.chosen, shares[:, 0]), (pair.rejected, shares[:, 1]))
        chosen, rejected = (
            sppo_soft(side.logps, side.ref_logps, share, beta=self.beta, where=pair.present) for side, share in sides
        )
        return chosen + rejected
