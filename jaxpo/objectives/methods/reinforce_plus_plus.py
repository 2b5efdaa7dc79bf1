"""REINFORCE++: advantages whitened over the tokens of a whole generation, under PPO's clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class ReinforcePlusPlus(RolloutMethod):
    """Rewards whitened over all tokens of a generation, instead of being scaled within the group.

    Attributes:
      baseline: what is subtracted before: nothing ("none"), or the group's "mean" (REINFORCE++-baseline).
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1; None = epsilon.
      dual_clip: bound on the ratio where the advantage is negative; None = none.
    """

    baseline: Literal["none", "mean"] = "none"
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    dual_clip: float | None = number(None, above=1)

    INFO = Info(
        name="reinforce_plus_plus",
        family="rollouts",
        paper="REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage Normalization",
        arxiv="2501.03262",
        certainty="verl's two forms at discount 1; the KL in the token rewards is not there yet",
        function="jaxpo.losses.ppo",
    )
    NEEDS = ROLLOUTS

    @property
    def advantage(self) -> Advantage:
        return Advantage(self.baseline, "tokens")

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
        return {"tokens": jnp.sum(found, axis=-1)}
