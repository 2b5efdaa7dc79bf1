"""Triple preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import PAIRS, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class TPOTriple(PairMethod):
    """A reference-free pair loss on the second best and the worst response, plus the likelihood of the best, `gold`.

    Attributes:
      variant: "tpo" on sums (TRL's loss_type "sigmoid"), "tpo_l" on means with a target margin; "hinge" and "ipo" as in
        TRL.
      beta: reward scale; about 0.01 for sums, 2 to 10 for tpo_l; for ipo it is tau.
      tpo_alpha: weight of the negative log-likelihood per gold token; at 0 no gold response is needed.
      tpo_l_gamma: target margin of tpo_l.
      label_smoothing: probability that a label is flipped; of tpo and tpo_l.
    """

    variant: Literal["tpo", "tpo_l", "hinge", "ipo"] = "tpo"
    beta: float = number(0.01, above=0)
    tpo_alpha: float = number(1.0, at_least=0)
    tpo_l_gamma: float = number(0.5)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="tpo_triple",
        family="pairs",
        paper="Triple Preference Optimization: Achieving Better Alignment using a Single Step Optimization",
        arxiv="2405.16681",
        certainty="authors' code; agrees with TRL, whose gold likelihood is averaged over a micro-batch, here the step",
        aliases=("triple_preference_optimization",),
    )
    NEEDS = Needs(roles=("chosen", "rejected", "gold"))
    METRICS = ("nll_loss",)

    def __post_init__(self) -> None:
        if self.tpo_alpha == 0:
            # What this configuration needs and measures, over the class's defaults.
            object.__setattr__(self, "NEEDS", PAIRS)
            object.__setattr__(self, "METRICS", ())

    def problems(self) -> list[str]:
        found = super().problems()
        if self.label_smoothing and self.variant in ("hinge", "ipo"):
            found.append(f"{self.INFO.name}: label_smoothing has no meaning for variant {self.variant!r}; set it to 0.")
        return found

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import tpo_triple

        gold = pair.others["gold"] if self.tpo_alpha else pair.chosen  # whose likelihood then has weight 0
        prefer, nll = tpo_triple(
            *pair.policy_logps,
            gold.logps,
            *pair.lengths,
            variant=self.variant,
            beta=self.beta,
            alpha=self.tpo_alpha,
            gamma=self.tpo_l_gamma,
            label_smoothing=self.label_smoothing,
            where=pair.present,
        )
        return {"pairs": prefer} | ({"gold_tokens": nll} if self.tpo_alpha else {})

    def reward(self, side: Side) -> Array:
        """`beta P`, of the mean per token for tpo_l and ipo."""
        from jaxpo.losses.numerics import per_token

        return self.beta * (per_token(side.logps, side.length) if self.variant in ("tpo_l", "ipo") else side.logps)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`nll_loss`: negative log-likelihood per gold token, without its weight."""
        from jaxpo.objectives.base import Mean
        from jaxpo.objectives.families.pairs import per_supervised_token

        if "gold" not in pair.others:
            return {}
        mean = per_supervised_token("logps", pair.present, pair.others["gold"])
        return {"nll_loss": Mean(-mean.total, mean.count)}
