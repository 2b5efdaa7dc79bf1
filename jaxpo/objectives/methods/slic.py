"""Sequence likelihood calibration with human feedback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class SLiC(PairMethod):
    """A margin in nats between the two responses plus the likelihood of a target. No reference model.

    Attributes:
      delta: margin, in nats of the whole response.
      slic_lambda: weight of the target's likelihood (0.1 to 1).
      target: whose likelihood is kept up: the chosen response's; the gold answer's, which every row must then have
        (column `gold`); or the gold answer's in rows that have one and the chosen response's in the others.
    """

    delta: float = number(1.0, at_least=0)
    slic_lambda: float = number(1.0, at_least=0)
    target: Literal["chosen", "gold", "gold_or_chosen"] = "chosen"

    INFO = Info(
        name="slic",
        family="pairs",
        paper="SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        arxiv="2305.10425",
        certainty="the paper's loss, cross-checked with a public implementation; delta and lambda vary by study",
        aliases=("slic_hf",),
    )
    NEEDS = PAIRS
    METRICS = ("calibration_loss", "nll_loss")

    def __post_init__(self) -> None:
        needs = {
            "chosen": PAIRS,
            "gold": replace(PAIRS, roles=(*PAIRS.roles, "gold")),
            "gold_or_chosen": replace(PAIRS, optional_roles=("gold",)),
        }
        object.__setattr__(self, "NEEDS", needs[self.target])

    def target_side(self, pair: Pair) -> Side:
        """The response whose likelihood is kept up."""
        import jax
        import jax.numpy as jnp

        gold = pair.others.get("gold")
        if gold is None or self.target == "chosen":
            return pair.chosen
        if self.target == "gold":
            return gold
        return jax.tree.map(lambda g, c: jnp.where(gold.length > 0, g, c), gold, pair.chosen)

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import slic

        target = self.target_side(pair).logps
        rank, likelihood = slic(*pair.policy_logps, target, delta=self.delta, lam=self.slic_lambda, where=pair.present)
        return rank + likelihood

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`calibration_loss`: the margin's part; `nll_loss`: negative log-likelihood per token of the target."""
        from jaxpo.losses import slic
        from jaxpo.objectives.base import Mean, masked_mean
        from jaxpo.objectives.families.pairs import per_supervised_token

        target = self.target_side(pair)
        rank, _ = slic(*pair.policy_logps, target.logps, delta=self.delta, where=pair.present)
        mean = per_supervised_token("logps", pair.present, target)
        return {"calibration_loss": masked_mean(rank, pair.present), "nll_loss": Mean(-mean.total, mean.count)}
