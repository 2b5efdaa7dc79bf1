"""Preference ranking optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod
from jaxpo.objectives.methods.list_checks import Ties, tie_problem, tied_lists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.lists import Ranked


@dataclass(frozen=True)
class PRO(ListMethod):
    """Each response against all worse ones of its list, plus the likelihood of the best. No reference model.

    The objective sorts every list by descending score, so lists may come in any order.

    Attributes:
      sft_weight: weight of the likelihood term, times (n - 1)^2; the paper's beta. It is a sum over tokens.
      reward_gaps: scale each comparison by its difference in score, which sets how sharp it is; False makes all 1.
      ties: what to do about equal scores, whose comparison has no gradient; "order" keeps their input order.
    """

    sft_weight: float = number(0.05, at_least=0)
    reward_gaps: bool = True
    ties: Ties = "error"

    INFO = Info(
        name="pro_ranking",
        family="lists",
        paper="Preference Ranking Optimization for Human Alignment",
        arxiv="2306.17492",
        certainty="authors' code (compute_loss), in a stable form",
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",))
    METRICS = ("nll_loss", "ranking_loss")

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Ties, and lists that are nothing but ties."""
        _, flat = tied_lists(columns)
        if flat and self.reward_gaps:
            return [
                f"pro_ranking: all scores are equal in {flat} list(s), which would train the likelihood of an "
                "arbitrary response and rank nothing; remove these lists."
            ]
        if self.ties == "order":
            return []
        return tie_problem("pro_ranking", "their comparison would have no gradient", columns)

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        rank, sft = self._terms(ranked)
        return {"lists": rank + sft}

    def reward(self, side: Side) -> Array:
        """The score that is ranked: the mean log-prob per token."""
        from jaxpo.losses.numerics import per_token

        return per_token(side.logps, side.length)

    def metrics(self, ranked: Ranked) -> dict[str, Metric]:
        """Ranking part of the loss, and the best response's negative log-likelihood per token."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import Mean, masked_mean

        logps, lengths, _, where = best_first(ranked)
        here = jnp.any(where, axis=1)
        best, count = (jnp.sum(jnp.where(here, x[:, 0], 0.0)) for x in (logps, lengths))
        return {"nll_loss": Mean(-best, count), "ranking_loss": masked_mean(self._terms(ranked)[0], here)}

    def _terms(self, ranked: Ranked) -> tuple[Array, Array]:
        from jaxpo.losses import pro_ranking

        logps, lengths, rewards, where = best_first(ranked)
        gaps = rewards if self.reward_gaps else None
        return pro_ranking(logps, lengths, gaps, where, sft_weight=self.sft_weight)


def best_first(ranked: Ranked) -> tuple[Array, Array, Array, Array]:
    """Log-probs, lengths, labels and presence, `[N, K]`, by descending label, absent ones last, ties in input order."""
    import jax.numpy as jnp

    order = jnp.argsort(jnp.where(ranked.present, -ranked.labels, jnp.inf), axis=1, stable=True)
    side = ranked.candidates
    logps, lengths, labels, present = (
        jnp.take_along_axis(x, order, axis=1) for x in (side.logps, side.length, ranked.labels, ranked.present)
    )
    return logps, lengths, labels, present
