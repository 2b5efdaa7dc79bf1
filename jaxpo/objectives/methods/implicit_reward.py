"""SFT as implicit reward learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import FeatureMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Metric, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.demonstrations import Demonstrations
    from jaxpo.objectives.families.features import Scores, Shape


@dataclass(frozen=True)
class ImplicitReward(FeatureMethod):
    """SFT losses from f-divergences, whose updates fade as the policy moves away from the model it started from.

    Attributes:
      divergence: "tv" is plain SFT per response; "chi2", "hellinger", "js" and "kl" keep the tie to the start.
      beta: scale of the reward; beta times the log-ratio should be of order 1 (about 1 / length for sums).
      reduction: log-ratios summed over the response's tokens, or their mean.
      value: V, "zero"; "running", minus the running mean of beta times the log-ratio, one number for all responses; or
        "logsumexp", beta log sum exp of the logits before the first response token (it takes no gradient).
      momentum: of the running value.
    """

    divergence: Literal["tv", "chi2", "hellinger", "js", "kl"] = "chi2"
    beta: float = number(1.0, above=0)
    reduction: Literal["sum", "mean"] = "mean"
    value: Literal["zero", "running", "logsumexp"] = "zero"
    momentum: float = number(0.9, at_least=0, at_most=1)

    INFO = Info(
        name="implicit_reward",
        family="sft",
        paper="Implicit Reward as the Bridge: A Unified View of SFT and DPO Connections",
        arxiv="2507.00018",
        certainty="reconstructed from the abstract and a review; the paper's choice of V and beta is not known",
        aliases=("f_sft",),
    )
    NEEDS = Needs(roles=("completion",), networks=(("reference", "logps"),))
    METRICS = ("nll", "implicit_reward", "sft_weight")

    def __post_init__(self) -> None:
        object.__setattr__(self, "HIDDEN", self.value == "logsumexp")  # over the class's default

    def shape(self) -> Shape:
        from jaxpo.objectives.families.demonstrations import DEMONSTRATION_SHAPE

        return DEMONSTRATION_SHAPE

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """The soft value of the prompt, from the logits before the first response token."""
        if self.value != "logsumexp":
            return {}
        from jaxpo.objectives.families.demonstrations import prompt_values

        return {"value": self.beta * prompt_values(scorer.unembedding(params["model"]), scores.hidden, batch)}

    def init_carry(self) -> Any:
        import jax.numpy as jnp

        return {"mean": jnp.zeros(())} if self.value == "running" else {}

    def after(self, carry: Any, stats: Any) -> Any:
        """Move the running mean of beta times the log-ratio; a step without a response leaves it."""
        import jax.numpy as jnp

        if self.value != "running":
            return carry
        mean = stats["total"] / jnp.maximum(stats["count"], 1.0)
        moved = self.momentum * carry["mean"] + (1.0 - self.momentum) * mean
        return {"mean": jnp.where(stats["count"] > 0, moved, carry["mean"])}

    def rewards(self, x: Demonstrations) -> Array:
        """beta times the log-ratio, `[N]`."""
        from jaxpo.losses.numerics import per_token

        ratio = x.completion.log_ratio
        return self.beta * (ratio if self.reduction == "sum" else per_token(ratio, x.completion.length))

    def values(self, x: Demonstrations, carry: Any) -> Array | float:
        """V: `[N]`, or one number."""
        if self.value == "logsumexp":
            return x.extra["value"]
        return -carry["mean"] if self.value == "running" else 0.0

    def evaluate(self, features: Demonstrations, batch: Batch, carry: Any, counts: Counts) -> Out:
        import jax
        import jax.numpy as jnp

        from jaxpo.losses import f_conjugate_slope, implicit_reward
        from jaxpo.objectives.base import Out, masked_mean

        x = features
        value, side = self.values(x, carry), x.completion
        terms = implicit_reward(
            side.logps,
            side.ref_logps,
            side.length,
            value,
            divergence=self.divergence,
            beta=self.beta,
            reduction=self.reduction,
            where=x.present,
        )
        rewards = jax.lax.stop_gradient(self.rewards(x))
        metrics = self.all_metrics(x) | {
            "implicit_reward": masked_mean(rewards, x.present),
            "sft_weight": masked_mean(f_conjugate_slope(-(rewards + value), self.divergence), x.present),
        }
        here = x.present.astype(jnp.float32)
        stats = {"total": jnp.sum(jnp.where(x.present, rewards, 0.0)), "count": jnp.sum(here)}
        return Out(self.reduce(x, {"completions": terms}, counts), metrics, stats if self.value == "running" else {})

    def metrics(self, features: Demonstrations) -> dict[str, Metric]:
        """`nll`: negative log-likelihood per supervised token, what plain SFT minimises."""
        from jaxpo.objectives.base import Mean
        from jaxpo.objectives.families.pairs import per_supervised_token

        mean = per_supervised_token("logps", features.present, features.completion)
        return {"nll": Mean(-mean.total, mean.count)}
