"""REINFORCE++: advantages whitened over the tokens of a whole generation, under PPO's clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import (
    PENALISED,
    ROLLOUTS,
    Advantage,
    Estimator,
    Penalty,
    PolicyGradient,
    penalty_of,
)

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class ReinforcePlusPlus(PolicyGradient):
    """Rewards whitened over all tokens of a generation, instead of being scaled within the group.

    Attributes:
      baseline: what is subtracted before: nothing ("none"), or the group's "mean" (REINFORCE++-baseline).
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1; None = epsilon.
      dual_clip: bound on the ratio where the advantage is negative; None = none.
      gamma: discount per token of the rewards that follow; of baseline "none".
      kl_coef: weight of the KL to the reference that is taken from the rewards of tokens; at 0 there is no reference.
      kl_estimator: of that KL.
      target_kl: KL of an answer, in nats, that kl_coef is led towards; None = it stays.
      horizon: answers over which kl_coef may change by 0.2 of itself.
      importance_sampling_correction: as of GRPO.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
    """

    baseline: Literal["none", "mean"] = "none"
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    dual_clip: float | None = number(None, above=1)
    gamma: float = number(1.0, at_least=0, at_most=1)
    kl_coef: float = number(0.0, at_least=0)
    kl_estimator: Estimator = "k1"
    target_kl: float | None = number(None, above=0)
    horizon: float = number(10_000.0, above=0)

    INFO = Info(
        name="reinforce_plus_plus",
        family="rollouts",
        paper="REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization",
        arxiv="2501.03262",
        certainty="verl's two forms, with its defaults: without the KL of the paper unless kl_coef says so",
        function="jaxpo.losses.ppo",
    )
    NEEDS = ROLLOUTS

    def __post_init__(self) -> None:
        if self.kl_coef > 0:
            object.__setattr__(self, "NEEDS", PENALISED)
        object.__setattr__(self, "BY_TOKEN", self.baseline == "none")

    def problems(self) -> list[str]:
        found = super().problems()
        if self.baseline == "mean" and self.gamma != 1:
            found.append(
                "reinforce_plus_plus.gamma: with the group's mean every token of an answer has one advantage; leave "
                'gamma out, or give baseline "none".'
            )
        return found

    @property
    def advantage(self) -> Advantage:
        return Advantage(self.baseline, "tokens")

    @property
    def penalty(self) -> Penalty | None:
        return penalty_of(self.kl_coef, self.kl_estimator, self.target_kl, self.horizon)

    def token_advantages(
        self, rewards: np.ndarray, values: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        from jaxpo.losses import reinforce_plus_plus, returns_to_go

        found = reinforce_plus_plus(rewards, mask, gamma=self.gamma)
        return found, returns_to_go(rewards, mask, gamma=self.gamma)

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        import jax.numpy as jnp

        from jaxpo.losses import ppo

        found = ppo(
            x.logps,
            x.old_logps,
            x.advantages,
            x.mask,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            dual_clip=self.dual_clip,
        )
        return {"tokens": jnp.sum(self.corrected(x, found), axis=-1)}

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`objective/*` of the KL in the rewards, where it is there."""
        from jaxpo.objectives.families.rollouts import penalty_metrics

        return penalty_metrics(x, self.penalty)
