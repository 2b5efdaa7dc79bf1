"""Latent collective preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.objectives.methods.base import PAIRS, PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Out
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class LCPO(PairMethod):
    """A pair loss in both orders, weighted by the posterior probability that the label is right.

    Attributes:
      base: the pair loss; simpo and cpo need no reference.
      beta: of the base loss. SimPO's papers use 2 and more.
      simpo_gamma: target margin of the simpo base.
      num_annotators: K; with more than one, rows carry the column `annotator`, an integer in [0, K).
      eta: reliability that every annotator starts with.
      eta_momentum: share of the step's posterior in the updated reliability (the paper's alpha).
    """

    base: Literal["dpo", "ipo", "simpo", "cpo"] = "dpo"
    beta: float = number(0.1, above=0)
    simpo_gamma: float = number(0.5)
    num_annotators: int = number(1, at_least=1)
    eta: float = number(0.9, at_least=0.5, at_most=1)
    eta_momentum: float = number(0.1, at_least=0, at_most=1)

    INFO = Info(
        name="lcpo",
        family="pairs",
        paper="Latent Collective Preference Optimization (RE-PO: Robust Enhanced Policy Optimization)",
        arxiv="2509.24159",
        certainty="paper, Eq. 2 to 7 and Algorithm 1; clipping of eta is ours",
        aliases=("re_po", "re_dpo"),
    )
    NEEDS = PAIRS_AND_REFERENCE

    METRICS = ("posterior", "reliability/mean", "reliability/min")

    def __post_init__(self) -> None:
        needs = PAIRS if self.base in ("simpo", "cpo") else PAIRS_AND_REFERENCE
        needs = replace(needs, columns=("annotator",)) if self.num_annotators > 1 else needs
        object.__setattr__(self, "NEEDS", needs)  # what this configuration needs, over the class's default

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Annotators must be numbered below `num_annotators`."""
        import numpy as np

        if "annotator" not in columns or np.size(columns["annotator"]) == 0:
            return []
        low, high = int(np.min(columns["annotator"])), int(np.max(columns["annotator"]))
        if low >= 0 and high < self.num_annotators:
            return []
        return [
            f"lcpo: column 'annotator' runs from {low} to {high}, but num_annotators is {self.num_annotators}; set "
            f"num_annotators to {high + 1}" + (" and number annotators from 0." if low < 0 else ".")
        ]

    def init_carry(self) -> Any:
        import jax.numpy as jnp

        return {"reliability": jnp.full((self.num_annotators,), self.eta, jnp.float32)}

    def after(self, carry: Any, stats: Any) -> Any:
        from jaxpo.losses import update_reliability

        return {"reliability": update_reliability(carry["reliability"], stats, alpha=self.eta_momentum)}

    def reward(self, side: Side) -> Array:
        """`beta P / |y|` of the simpo base, else `beta (P - R)`."""
        from jaxpo.losses.numerics import per_token

        return self.beta * per_token(side.logps, side.length) if self.base == "simpo" else super().reward(side)

    def evaluate(self, features: Pair, batch: Batch, carry: Any, counts: Counts) -> Out:
        import jax.numpy as jnp

        from jaxpo.losses import lcpo, lcpo_stats
        from jaxpo.objectives.base import Mean, Min, Out, masked_mean

        p = features
        who = p.columns["annotator"] if self.num_annotators > 1 else jnp.zeros(p.present.shape, jnp.int32)
        # An annotator that does not exist gives NaN, which stops the run, instead of another one's reliability.
        who = jnp.where(who < 0, self.num_annotators, who)
        eta = carry["reliability"].at[who].get(mode="fill", fill_value=jnp.nan)
        terms, posterior = lcpo(self.margin(p), eta, where=p.present)
        stats = lcpo_stats(posterior, who, self.num_annotators, where=p.present)
        known = carry["reliability"]
        metrics = self.all_metrics(p) | {
            "posterior": masked_mean(posterior, p.present),
            "reliability/mean": Mean(jnp.sum(known), jnp.float32(self.num_annotators)),
            "reliability/min": Min(jnp.min(known)),
        }
        return Out(self.reduce(p, terms, counts), metrics, stats)

    def margin(self, p: Pair) -> Array:
        """The base loss in the flipped order minus that in the given order, `[N]`."""
        from jaxpo import losses

        kw: dict[str, Any] = {"beta": self.beta, "where": p.present}
        margins = {
            "dpo": lambda: losses.lcpo_margin_dpo(*p.logps, **kw),
            "ipo": lambda: losses.lcpo_margin_ipo(*p.logps, **kw),
            "simpo": lambda: losses.lcpo_margin_simpo(*p.policy_logps, *p.lengths, gamma=self.simpo_gamma, **kw),
            "cpo": lambda: losses.lcpo_margin_cpo(*p.policy_logps, **kw),
        }
        return margins[self.base]()
