"""Group relative policy optimisation, with TRL's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, ROLLOUTS_AND_REFERENCE, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts

Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class GRPO(RolloutMethod):
    """Clipped policy gradient on rewards compared within the group of answers to one prompt.

    Attributes:
      beta: weight of the KL to the reference; at 0 there is no reference.
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1; None = epsilon (DAPO: 0.28).
      delta: bound on the ratio where the advantage is negative; None = none.
      importance_sampling_level: one ratio per "token", or per answer ("sequence", GSPO).
      loss_type: "grpo" averages over each answer's tokens, then over answers; "dapo" and "bnpo" over all tokens of the
        step; "dr_grpo" divides each answer's sum by the longest length an answer may have.
      scale_rewards: the deviation that advantages are divided by: of the "group", the "batch", or "none" (Dr. GRPO).
      use_bias_correction_kl: weigh the KL of each token with its ratio, so that its gradient is that of the KL.
      importance_sampling_correction: of a sampler that differs from the trainer, by token or answer, its weights cut
        at the cap or left out beyond it.
      importance_sampling_cap: see there.
    """

    beta: float = number(0.0, at_least=0)
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    delta: float | None = number(None, above=1)
    importance_sampling_level: Literal["token", "sequence"] = "token"
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    use_bias_correction_kl: bool = True
    importance_sampling_correction: Correction = "sequence_mask"
    importance_sampling_cap: float = number(3.0, above=0)

    INFO = Info(
        name="grpo",
        family="rollouts",
        paper="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        arxiv="2402.03300",
        certainty="TRL's options and defaults; denominators are those of the whole step, where TRL's bnpo takes one "
        "micro-batch's",
    )
    NEEDS = ROLLOUTS
    METRICS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")

    def __post_init__(self) -> None:
        if self.beta > 0:
            object.__setattr__(self, "NEEDS", ROLLOUTS_AND_REFERENCE)
            object.__setattr__(self, "METRICS", ("kl", *type(self).METRICS))

    @property
    def advantage(self) -> Advantage:
        return Advantage("mean", self.scale_rewards)

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses.grpo import aggregated, grpo, k3, log_ratios, sampler_weights

        level = self.importance_sampling_level
        found = grpo(
            x.logps,
            x.old_logps,
            x.advantages,
            x.mask,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            delta=self.delta,
            importance_sampling_level=level,
        )
        if self.importance_sampling_correction != "none":
            found = found * sampler_weights(
                x.old_logps,
                x.sampling_logps,
                x.mask,
                mode=self.importance_sampling_correction,
                cap=self.importance_sampling_cap,
            )
        if self.beta > 0:
            import jax.numpy as jnp

            kl = k3(x.logps, x.ref_logps, x.mask)
            if self.use_bias_correction_kl:
                kl = kl * jnp.exp(log_ratios(x.logps, x.old_logps, x.mask, level=level))
            found = found + self.beta * kl
        return aggregated(found, x.mask, loss_type=self.loss_type, max_completion_length=max_completion_length)

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`clip_ratio/*`: the share of tokens, or answers, whose ratio is clipped; `kl` with a reference."""
        import jax.numpy as jnp

        from jaxpo.losses.grpo import k3, log_ratios
        from jaxpo.objectives.base import masked_mean

        w = jnp.exp(log_ratios(x.logps, x.old_logps, x.mask, level=self.importance_sampling_level))
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        low_clipped = (w < 1.0 - self.epsilon) & (x.advantages < 0)
        high_clipped = (w > 1.0 + high) & (x.advantages > 0)
        shares = {"low": low_clipped, "high": high_clipped, "region": low_clipped | high_clipped}
        found: dict[str, Metric] = {
            f"clip_ratio/{name}_mean": masked_mean(share.astype(jnp.float32), x.mask) for name, share in shares.items()
        }
        if self.beta > 0:
            found["kl"] = masked_mean(k3(x.logps, x.ref_logps, x.mask), x.mask)
        return found
