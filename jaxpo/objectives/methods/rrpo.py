"""Refined regularised preference optimisation."""

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
class RRPO(PairMethod):
    """DPO on the phrases in which the responses differ, and a token-wise KL on the whole chosen response.

    Attributes:
      beta: strength of the tie to the reference (0.1 to 0.9).
      alpha: weight of the KL to the reference (0.01 to 0.1).
    """

    beta: float = number(0.1, above=0)
    alpha: float = number(0.01, at_least=0)

    INFO = Info(
        name="rrpo",
        family="pairs",
        paper="Self-Alignment of Large Video Language Models with Refined Regularized Preference Optimization",
        arxiv="2504.12083",
        certainty="authors' code; the paper prints the KL with the opposite sign",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),), per_token=("phrase",))
    TOKENS = True
    METRICS = ("tkl", "phrase_share")

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import rrpo

        return rrpo(
            *pair.token_logps,
            pair.token_kls[0],
            *pair.token_masks,
            *pair.token_columns("phrase"),
            beta=self.beta,
            alpha=self.alpha,
            where=pair.present,
        )

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`tkl`: KL summed over the chosen response; `phrase_share`: share of response tokens in marked phrases."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        here = jnp.concatenate(pair.token_masks) & jnp.tile(pair.present, 2)[:, None]
        marked = jnp.concatenate(pair.token_columns("phrase")) > 0
        return {"tkl": masked_mean(pair.kls[0], pair.present), "phrase_share": masked_mean(marked, here)}
