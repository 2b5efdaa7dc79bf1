"""Group relative policy optimisation, with TRL's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, ROLLOUTS_AND_REFERENCE, Advantage, PolicyGradient

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Loss types whose terms are the clipped ones."""
PER_TOKEN = "sequence_token"
"""The ratio of the answer in value, with a gradient per token: GSPO-token."""


@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Clipped policy gradient on rewards compared within the group of answers to one prompt.

    Attributes:
      beta: weight of the KL to the reference; at 0 there is no reference.
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1; None = epsilon (DAPO: 0.28). Of cispo the largest weight itself (5, say).
      delta: bound on the ratio where the advantage is negative; None = none. Of the clipped losses.
      importance_sampling_level: one ratio per "token", or per answer ("sequence", GSPO; LUSPO has it);
        "sequence_token" is GSPO-token, the answer's ratio with a gradient per token, of the clipped losses.
      loss_type: "grpo" averages over each answer's tokens, then over answers; "dapo" and "bnpo" over all tokens of the
        step; "dr_grpo" divides each answer's sum by the longest length an answer may have; "luspo" takes the sum;
        "cispo", "sapo" and "vespo" have other terms in the place of the clipped ones.
      scale_rewards: the deviation that advantages are divided by: of the "group", the "batch", or "none" (Dr. GRPO).
      kl_estimator: of the KL in the loss: "k1", "k2", "k3", or the value of k1 or k3 with the gradient of k2 ("k1+",
        "k3+"; verl's names of it are "kl+" and "low_var_kl+").
      use_bias_correction_kl: weigh the KL of each token with its ratio, so that its gradient is that of the KL.
      importance_sampling_correction: of a sampler that differs from the trainer, by token or answer, its weights cut
        at the cap or left out beyond it. Vespo takes those of tokens into its own weight.
      importance_sampling_cap: see there.
      importance_sampling_floor: likewise from below; None = none. IcePop is "token_mask" with 0.5 and 5.
      geometric_mask: answers whose mean ratio of trainer to sampler lies outside these two bounds are left out, such as
        (0.99, 1.01); None = none is.
      off_policy_mask_threshold: answers of negative advantage that the policy has lost so much of per token, in nats,
        are left out; None = none is.
      top_entropy_quantile: share of the step's tokens that is trained on, those of the highest entropy; below 1 the
        loss couples the step.
      sapo_temperature_pos: of sapo's gate where the advantage is positive.
      sapo_temperature_neg: elsewhere.
      vespo_k_pos: shape of vespo's weight where the advantage is not negative.
      vespo_lambda_pos: see there.
      vespo_k_neg: elsewhere.
      vespo_lambda_neg: see there.
    """

    beta: float = number(0.0, at_least=0)
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    delta: float | None = number(None, above=1)
    importance_sampling_level: Literal["token", "sequence", "sequence_token"] = "token"
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    kl_estimator: Literal["k1", "k2", "k3", "k1+", "k3+"] = "k3"
    use_bias_correction_kl: bool = True
    geometric_mask: tuple[float, float] | None = None
    off_policy_mask_threshold: float | None = number(None, above=0)
    top_entropy_quantile: float = number(1.0, above=0, at_most=1)
    sapo_temperature_pos: float = number(1.0, above=0)
    sapo_temperature_neg: float = number(1.05, above=0)
    vespo_k_pos: float = number(2.0, above=0)
    vespo_lambda_pos: float = number(3.0, above=0)
    vespo_k_neg: float = number(3.0, above=0)
    vespo_lambda_neg: float = number(2.0, above=0)

    INFO = Info(
        name="grpo",
        family="rollouts",
        paper="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        arxiv="2402.03300",
        certainty="TRL's options and defaults; denominators and entropy quantile are those of the whole step, where "
        "TRL's bnpo takes one micro-batch's",
    )
    NEEDS = ROLLOUTS

    def __post_init__(self) -> None:
        if self.beta > 0:
            object.__setattr__(self, "NEEDS", ROLLOUTS_AND_REFERENCE)
        if self.top_entropy_quantile < 1:
            object.__setattr__(self, "COUPLED", True)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.loss_type == "cispo" and self.epsilon_high is None:
            found.append("grpo.epsilon_high: of cispo it is the largest weight of a token, such as 5.0; give it.")
        if self.loss_type not in CLIPPED and self.delta is not None:
            found.append(f"grpo.delta: {self.loss_type} has no clipped ratio that it would bound; leave it out.")
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            found.append('grpo.importance_sampling_level: luspo has one ratio per answer; give "sequence".')
        if self.importance_sampling_level == PER_TOKEN and (self.loss_type not in CLIPPED or self.delta is not None):
            found.append(
                f"grpo.importance_sampling_level: {PER_TOKEN!r} has terms of its own, clipped on both sides by epsilon "
                "alone; give a loss_type of the clipped ones, and no delta."
            )
        if self.geometric_mask is not None and not 0 < self.geometric_mask[0] < self.geometric_mask[1]:
            found.append(f"grpo.geometric_mask: {self.geometric_mask} must be two bounds above 0, the lower one first.")
        return found

    @property
    def advantage(self) -> Advantage:
        return Advantage("mean", self.scale_rewards)

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses import off_policy_mask
        from jaxpo.losses.grpo import aggregated

        found = self._policy_terms(x)
        if self.loss_type != "vespo":
            found = self.corrected(x, found)
        if (bounds := self.geometric_mask) is not None:
            from jaxpo.losses import geometric_mask

            low, high = bounds
            found = found * geometric_mask(x.old_logps, x.sampling_logps, x.mask, low=low, high=high)
        if (threshold := self.off_policy_mask_threshold) is not None:
            found = found * off_policy_mask(x.logps, x.sampling_logps, x.advantages, x.mask, threshold=threshold)
        if self.top_entropy_quantile < 1:
            found = self._undecided(x, found)
        if self.beta > 0:
            found = found + self.beta * self._kl(x)
        return aggregated(found, x.mask, loss_type=self.loss_type, max_completion_length=max_completion_length)

    def _kl(self, x: Rollouts) -> Array:
        """`[N, T]`, of the estimator that is chosen, weighed by the ratio where its bias is corrected."""
        import jax.numpy as jnp

        from jaxpo.losses import kl_straight_through
        from jaxpo.losses.importance import log_ratios
        from jaxpo.losses.kl import ESTIMATORS

        name = self.kl_estimator
        estimator: Any = name.removesuffix("+")
        arrays = (x.logps, x.ref_logps)
        kl: Array = (
            kl_straight_through(*arrays, estimator=estimator, where=x.mask)
            if name.endswith("+")
            else ESTIMATORS[estimator](*arrays, where=x.mask)
        )
        if not self.use_bias_correction_kl:
            return kl
        return kl * jnp.exp(log_ratios(x.logps, x.old_logps, x.mask, level=self._level))

    @property
    def _level(self) -> Any:
        """Of the ratio's value: GSPO-token's is that of the answer."""
        return "token" if self.importance_sampling_level == "token" else "sequence"

    def _policy_terms(self, x: Rollouts) -> Array:
        """`[N, T]` by the loss type."""
        from jaxpo.losses import cispo, grpo, gspo_token, sapo, vespo

        arrays, level = (x.logps, x.old_logps, x.advantages, x.mask), self._level
        if self.importance_sampling_level == PER_TOKEN:
            return gspo_token(*arrays, epsilon=self.epsilon, epsilon_high=self.epsilon_high)
        if self.loss_type == "cispo":
            return cispo(*arrays, epsilon_high=self.epsilon_high or 0.0, importance_sampling_level=level)
        if self.loss_type == "sapo":
            gates: dict[str, Any] = {
                f"sapo_temperature_{sign}": getattr(self, f"sapo_temperature_{sign}") for sign in ("pos", "neg")
            }
            return sapo(*arrays, importance_sampling_level=level, **gates)
        if self.loss_type == "vespo":
            shape = {name: getattr(self, name) for name in vars(self) if name.startswith("vespo_")}
            return vespo(*arrays, sampler_weights=self.corrections(x, level="token"), **shape)
        high, delta = self.epsilon_high, self.delta
        return grpo(*arrays, epsilon=self.epsilon, epsilon_high=high, delta=delta, importance_sampling_level=level)

    def _undecided(self, x: Rollouts, terms: Array) -> Array:
        """The terms of the tokens of the highest entropy in the step."""
        import jax.numpy as jnp

        from jaxpo.losses import entropy_threshold, top_entropy_mask

        threshold = entropy_threshold(x.entropy, x.mask, top_entropy_quantile=self.top_entropy_quantile)
        return jnp.where(top_entropy_mask(x.entropy, x.mask, threshold), terms, 0.0)

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`clip_ratio/*`: the share of tokens, or answers, whose ratio is clipped; `kl` with a reference."""
        import jax.numpy as jnp

        from jaxpo.losses.kl import ESTIMATORS
        from jaxpo.objectives.base import masked_mean

        low, high = self._clipped(x)
        shares = {"low": low, "high": high, "region": low | high}
        found: dict[str, Metric] = {
            f"clip_ratio/{name}_mean": masked_mean(share.astype(jnp.float32), x.mask) for name, share in shares.items()
        }
        if self.beta > 0:
            kl = ESTIMATORS[self.kl_estimator.removesuffix("+")](x.logps, x.ref_logps, where=x.mask)
            found["kl"] = masked_mean(kl, x.mask)
        return found

    def _clipped(self, x: Rollouts) -> tuple[Array, Array]:
        """Where the ratio is clipped from below, and from above."""
        import jax.numpy as jnp

        from jaxpo.losses.importance import log_ratios

        w = jnp.exp(log_ratios(x.logps, x.old_logps, x.mask, level=self._level))
        top = self.epsilon if self.epsilon_high is None else self.epsilon_high
        most = top if self.loss_type == "cispo" else 1.0 + top
        return (w < 1.0 - self.epsilon) & (x.advantages < 0), (w > most) & (x.advantages > 0)
