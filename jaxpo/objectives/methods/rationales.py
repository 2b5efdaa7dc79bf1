"""Preference optimisation with rationales: RDPO, RORPO, RSimPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS, PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class Rationales(PairMethod):
    """A pair loss plus the likelihood of a text that explains the preference, columns `rationale, rationale_prompt`.

    Attributes:
      base: "dpo" (RDPO), "orpo" (RORPO) or "simpo" (RSimPO); the latter two need no reference.
      form: "linear" is the paper's RDPO and the released RORPO "simple"; "sigmoid" the released code's RDPO.
      beta: of the pair loss; SimPO's papers use 2 and more.
      gamma: weight of the rationale: of a sum over its tokens under dpo, of their mean otherwise (released RORPO: 1).
      simpo_gamma: target margin of the simpo base.
    """

    base: Literal["dpo", "orpo", "simpo"] = "dpo"
    form: Literal["linear", "sigmoid"] = "linear"
    beta: float = number(0.1, above=0)
    gamma: float = number(0.1, at_least=0)
    simpo_gamma: float = number(0.5)

    INFO = Info(
        name="rationales",
        family="pairs",
        paper="Data-Centric Human Preference Optimization with Rationales",
        arxiv="2407.14477",
        certainty="paper's RDPO by default; the released code's differs (form sigmoid); RSimPO is reconstructed",
        aliases=("rdpo_rationale",),
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, optional_roles=("rationale",))
    METRICS = ("rationale_nll",)

    def __post_init__(self) -> None:
        pairs = PAIRS_AND_REFERENCE if self.base == "dpo" else PAIRS
        # What this configuration needs and measures, over the class's defaults.
        object.__setattr__(self, "NEEDS", replace(pairs, optional_roles=("rationale",)))
        if self.base == "orpo":
            object.__setattr__(self, "METRICS", (*self.METRICS, "nll_loss", "log_odds_ratio", "log_odds_chosen"))

    def loss(self, pair: Pair) -> dict[str, Array]:
        import jax.numpy as jnp

        from jaxpo.losses import rationales

        reason = pair.others.get("rationale")
        nothing = jnp.zeros_like(pair.chosen.logps)
        prefer, nll, rationale = rationales(
            *pair.logps,
            *pair.lengths,
            *((nothing, nothing) if reason is None else (reason.logps, reason.length)),
            base=self.base,
            form=self.form,
            beta=self.beta,
            gamma=self.gamma,
            simpo_gamma=self.simpo_gamma,
            where=pair.present,
        )
        return {"pairs": prefer + rationale} | ({"chosen_tokens": nll} if self.base == "orpo" else {})

    def reward(self, side: Side) -> Array:
        """`beta (P - R)`; beta times the mean log-prob for the bases without a reference."""
        from jaxpo.losses.numerics import per_token

        return self.beta * (side.log_ratio if self.base == "dpo" else per_token(side.logps, side.length))

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`rationale_nll`: negative log-likelihood per rationale token; for orpo also what TRL logs of it."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import Mean
        from jaxpo.objectives.families.pairs import per_supervised_token

        reason = [pair.others["rationale"]] if "rationale" in pair.others else []
        total = per_supervised_token("logps", pair.present, *reason) if reason else Mean(jnp.zeros(()), jnp.zeros(()))
        found: dict[str, Metric] = {"rationale_nll": Mean(-total.total, total.count)}
        return found | (self._odds(pair) if self.base == "orpo" else {})

    def _odds(self, pair: Pair) -> dict[str, Metric]:
        import jax

        from jaxpo.losses.numerics import per_token
        from jaxpo.losses.orpo import log_odds
        from jaxpo.objectives.base import masked_mean
        from jaxpo.objectives.families.pairs import chosen_nll

        chosen, rejected = (log_odds(per_token(s.logps, s.length)) for s in (pair.chosen, pair.rejected))
        return {
            "nll_loss": chosen_nll(pair),
            "log_odds_chosen": masked_mean(chosen - rejected, pair.present),
            "log_odds_ratio": masked_mean(jax.nn.log_sigmoid(chosen - rejected), pair.present),
        }
