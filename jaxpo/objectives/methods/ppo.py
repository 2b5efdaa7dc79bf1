"""PPO with a critic, as TRL had it until 1.12 and verl has it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import (
    PENALISED,
    Advantage,
    Estimator,
    Penalty,
    PolicyGradient,
    ScoreScaling,
    penalty_of,
)

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores
    from jaxpo.objectives.families.rollouts import Rollouts

CRITIC = "critic"
WITH_KL = replace(PENALISED, per_token=(*PENALISED.per_token, "old_values", "returns"), extra=(CRITIC,))
WITHOUT_KL = Needs(
    WITH_KL.roles, per_token=tuple(name for name in WITH_KL.per_token if name != "ref_logps"), extra=WITH_KL.extra
)


@dataclass(frozen=True)
class PPO(PolicyGradient):
    """Clipped policy gradient on advantages of tokens, estimated with a critic that is trained beside the policy.

    Rewards of tokens are the KL to the reference and, at the last one, the answer's reward; advantages are generalised
    (GAE) and whitened over all tokens of a generation. The critic's learning rate is a factor of the policy's:
    `optimizer.lr_factors = (("critic/*", 10.0),)`.

    Attributes:
      critic: a "network" of its own, or a "head" on the policy, whose gradient the policy gets too.
      epsilon: how far below 1 a ratio counts (TRL's `cliprange`).
      epsilon_high: how far above 1; None = epsilon.
      dual_clip: bound on the ratio where the advantage is negative; None = none. verl takes 3.
      vf_coef: weight of the critic's loss.
      cliprange_value: how far a value counts that has moved since the answers were written; 0 = however far.
      gamma: discount per token.
      lam: of GAE: 0 trusts the critic alone, 1 the rewards alone.
      whiten_rewards: divide the rewards of tokens by their deviation.
      score_scaling: of an answer's reward, before the KL: over the running deviation of all so far ("scale"), less
        their running mean too ("norm"), or "none" (TRL's use_score_scaling and use_score_norm).
      score_clip: bound of an answer's reward after that; None = none.
      spread_reward: an answer's reward is split evenly over its tokens (SPO), instead of given to the last one.
      kl_coef: weight of the KL to the reference that is taken from the rewards of tokens; at 0 there is no reference.
      kl_estimator: of that KL.
      target_kl: KL of an answer, in nats, that kl_coef is led towards; None = it stays.
      horizon: answers over which kl_coef may change by 0.2 of itself.
      importance_sampling_correction: as of GRPO.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
    """

    critic: Literal["network", "head"] = "network"
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    dual_clip: float | None = number(None, above=1)
    vf_coef: float = number(0.1, at_least=0)
    cliprange_value: float = number(0.2, at_least=0)
    gamma: float = number(1.0, at_least=0, at_most=1)
    lam: float = number(0.95, at_least=0, at_most=1)
    whiten_rewards: bool = False
    score_scaling: Literal["none", "scale", "norm"] = "none"
    score_clip: float | None = number(None, above=0)
    spread_reward: bool = False
    kl_coef: float = number(0.05, at_least=0)
    kl_estimator: Estimator = "k1"
    target_kl: float | None = number(None, above=0)
    horizon: float = number(10_000.0, above=0)

    INFO = Info(
        name="ppo",
        family="rollouts",
        paper="Proximal Policy Optimization Algorithms",
        arxiv="1707.06347",
        certainty="the loss of TRL's former PPO trainer, averaged over the tokens of the whole step; its defaults",
    )
    NEEDS = WITH_KL
    HIDDEN = True
    BY_TOKEN = True

    def __post_init__(self) -> None:
        if self.kl_coef == 0:
            object.__setattr__(self, "NEEDS", WITHOUT_KL)

    def problems(self) -> list[str]:
        found, high = super().problems(), self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.dual_clip is not None and self.dual_clip <= 1 + high:
            found.append(f"ppo.dual_clip: {self.dual_clip} must be above 1 + epsilon_high, {1 + high:g}.")
        if self.score_clip is not None and self.score_scaling == "none":
            found.append(f'ppo.score_clip: {self.score_clip} bounds scaled rewards; give score_scaling "norm", too.')
        return found

    @property
    def advantage(self) -> Advantage:
        return Advantage("none", "none")

    @property
    def scaling(self) -> ScoreScaling | None:
        return None if self.score_scaling == "none" else ScoreScaling(self.score_scaling, self.score_clip)

    @property
    def spreads(self) -> bool:
        return self.spread_reward

    @property
    def penalty(self) -> Penalty | None:
        return penalty_of(self.kl_coef, self.kl_estimator, self.target_kl, self.horizon)

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        from jaxpo.models.heads import critic_table

        return {CRITIC: critic_table(config, network=self.critic == "network")}

    def token_advantages(
        self, rewards: np.ndarray, values: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from jaxpo.losses import gae, whiten

        if self.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        return whiten(advantages, mask), returns

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        from jaxpo.data.packing.batch import rows_of
        from jaxpo.objectives.families.critic import critic_values

        values = critic_values(scorer, params, batch, scores.hidden, rng)
        return {"values": rows_of(values, batch.roles["completion"], batch)}

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        import jax.numpy as jnp

        found = self._policy(x)
        for weight, value in self._critics(x):
            found = found + weight * value
        return {"tokens": jnp.sum(found, axis=-1)}

    def _advantages(self, x: Rollouts) -> Array:
        """`[N, T]` that the policy is trained with."""
        return x.advantages

    def _policy(self, x: Rollouts) -> Array:
        """`[N, T]` the policy's terms."""
        from jaxpo.losses import ppo

        clips: dict[str, Any] = {
            "epsilon": self.epsilon,
            "epsilon_high": self.epsilon_high,
            "dual_clip": self.dual_clip,
        }
        return self.corrected(x, ppo(x.logps, x.old_logps, self._advantages(x), x.mask, **clips))

    def _critics(self, x: Rollouts) -> list[tuple[float, Array]]:
        """The weight and the terms `[N, T]` of every critic."""
        from jaxpo.losses import ppo_value

        known = (x.column("old_values"), x.column("returns"), x.mask)
        return [(self.vf_coef, ppo_value(x.extra["values"], *known, cliprange_value=self.cliprange_value or None))]

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """TRL's `objective/*`, `policy/*`, `loss/*` and `val/*`, and verl's `critic/*`."""
        from jaxpo.objectives.families.critic import critic_metrics
        from jaxpo.objectives.families.rollouts import penalty_metrics

        values = [value for _, value in self._critics(x)]
        found = critic_metrics(x, self._advantages(x), self._policy(x), sum(values[1:], values[0]), self)
        return penalty_metrics(x, self.penalty) | found
