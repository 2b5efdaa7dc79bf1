"""In-context ranking preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Shape, Side
    from jaxpo.objectives.families.lists import Ranked


@dataclass(frozen=True)
class IRPORanking(ListMethod):
    """Raises each relevant item of a list inside one response against all its other items, weighted as in NDCG.

    Attributes:
      beta: scale of the items' rewards.
      weighting: "ndcg" is (2^y - 1) / log2(1 + t); "discount" leaves out the gain, "reciprocal" divides by t instead.
    """

    beta: float = number(1.0, above=0)
    weighting: Literal["ndcg", "discount", "reciprocal"] = "ndcg"

    INFO = Info(
        name="irpo_ranking",
        family="lists",
        paper="In-context Ranking Preference Optimization",
        arxiv="2504.15477",
        certainty="authors' code, with the next-token shift and an exact self-exclusion that it lacks; the paper's own "
        "formula was not compared",
    )
    NEEDS = Needs(roles=("items",), columns=("relevance",), networks=(("reference", "logps"),), per_token=("item",))
    METRICS = ("ndcg", "mrr")

    def shape(self) -> Shape:
        from jaxpo.objectives.families.items import ITEM_SHAPE

        return ITEM_SHAPE

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import irpo_ranking, target_positions

        items = ranked.candidates
        terms = irpo_ranking(
            items.logps,
            items.ref_logps,
            items.length,
            ranked.labels,
            target_positions(ranked.labels, ranked.present),
            ranked.present,
            beta=self.beta,
            weighting=self.weighting,
        )
        return {"lists": terms}

    def reward(self, side: Side) -> Array:
        """`beta` times the mean log-ratio of an item's tokens."""
        from jaxpo.losses.numerics import per_token

        return self.beta * per_token(side.log_ratio, side.length)

    def metrics(self, ranked: Ranked) -> dict[str, Metric]:
        """Ranking by the policy's mean log-prob per item: NDCG, and the reciprocal rank of the first relevant item."""
        import jax.numpy as jnp

        from jaxpo.losses import ndcg
        from jaxpo.losses.numerics import per_token
        from jaxpo.losses.ranking import ranks
        from jaxpo.objectives.base import masked_mean

        here, items = ranked.present, ranked.candidates
        score = per_token(items.logps, items.length)
        relevant = here & (ranked.labels > 0)
        first = jnp.max(jnp.where(relevant, 1.0 / ranks(score, here), 0.0), axis=1)
        some = jnp.any(relevant, axis=1)
        return {"ndcg": masked_mean(ndcg(score, ranked.labels, here), some), "mrr": masked_mean(first, some)}
