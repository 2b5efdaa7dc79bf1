"""Nash mirror descent: answers against those of a mixture of the policy with its reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS_AND_REFERENCE, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class NashMD(RolloutMethod):
    """Policy gradient on the probability of being preferred to an answer of the mixture, tied to the reference.

    Attributes:
      beta: strength of the tie to the reference.
      mixture_coef: weight of the reference's logits in the mixture; 0 is self-play, 1 plays against the reference.
      missing_eos_penalty: subtracted from the reward of an answer without an end; None = nothing is.
    """

    beta: float = number(0.1, above=0)
    mixture_coef: float = number(0.5, at_least=0, at_most=1)
    missing_eos_penalty: float | None = number(None, at_least=0)

    INFO = Info(
        name="nash_md",
        family="rollouts",
        paper="Nash Learning from Human Feedback",
        arxiv="2312.00886",
        certainty="TRL's former trainer; the probability is the sigmoid of the difference of rewards, as there",
    )
    NEEDS = ROLLOUTS_AND_REFERENCE

    @property
    def advantage(self) -> Advantage:
        return Advantage("none", "none")

    @property
    def answering(self) -> Answering:
        return Answering("policy_and_mixture", self.mixture_coef, "wins", missing_eos_penalty=self.missing_eos_penalty)

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses import nash_md

        preference = x.of_answer(x.advantages) + 0.5
        return {"answers": nash_md(x.logps, x.ref_logps, preference, x.mask, beta=self.beta, where=x.present)}

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`rewards/probabilities` and `rewards/accuracies` of winning, `loss/kl` and `loss/score`, `objective/kl`."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        on, here = x.mask, x.present
        ratio = jnp.where(on, x.logps - x.ref_logps, 0.0)
        own = jnp.where(on, x.logps, 0.0)
        gain = x.of_answer(x.advantages)
        return {
            "rewards/probabilities": masked_mean(gain + 0.5, here),
            "rewards/accuracies": masked_mean((gain > 0).astype(jnp.float32), here),
            "objective/kl": masked_mean(jnp.sum(ratio, axis=-1), here),
            "loss/kl": masked_mean(jnp.sum(ratio * own, axis=-1), here),
            "loss/score": masked_mean(-gain * jnp.sum(own, axis=-1), here),
        }
