"""PPO that holds every reward at its threshold by a learnt multiplier (constrained RLHF)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.ppo import CRITIC, PPO
from jaxpo.objectives.methods.rollouts import PENALISED, Penalty, stream_column

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Counts, Metric, Objective, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores
    from jaxpo.objectives.families.rollouts import Rollouts
    from jaxpo.objectives.methods.options import Options

STREAMED = ("advantages", "old_values", "returns")
"""Per-token columns that every stream has."""


@dataclass(frozen=True)
class ThresholdSearch:
    """Nelder and Mead's search for the thresholds, in the same run and by the same policy.

    Attributes:
      low, high: `[K]` the box that the first simplex is drawn in, in the order of `thresholds`.
      score: the reward whose mean over answers to held-out prompts is to be large; it is no constraint.
      generations: that a vertex is tried for, at most; it ends when every mean reward is within 5% of its threshold.
      seed: of the first simplex.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    score: str = ""
    generations: int = 10
    seed: int = 0


@dataclass(frozen=True)
class ConstrainedRLHF(PPO):
    """The KL to the reference as the objective, and every reward held at (or above) its threshold.

    Streams are the KL and each constrained reward: each has a critic's head, its own generalised advantages, and these
    are whitened over a generation by themselves. Multipliers mix them, and follow the rewards once per step.

    Attributes:
      thresholds: (name of a reward, threshold) of each constraint; other rewards are only measured.
      bound: of the multipliers: "tanh" holds a reward at its threshold (xi-PPO), "sigmoid" at or above it (mu-PPO);
        "unbounded" reaches what neither does.
      multiplier_learning_rate: of their gradient descent.
      multiplier_momentum: of it.
      multiplier_max_norm: that its gradient is cut to.
      multiplier_start: the number that is bounded, before the first step; None = from N(0, 0.01^2), unbounded 0.5.
      threshold_search: of the thresholds, which start in its box then; None = they stay.
      vf_coef: weight of the loss of every reward's critic.
      vf_coef_kl: of the KL's critic.
      critic: as of PPO.
      epsilon: as of PPO.
      epsilon_high: as of PPO.
      dual_clip: as of PPO.
      cliprange_value: as of PPO; 0 is the plain squared error.
      gamma: as of PPO.
      lam: as of PPO.
      whiten_rewards: as of PPO, stream by stream.
      score_scaling: of PPO; here every stream's advantages are whitened, whatever its scale.
      score_clip: likewise.
      spread_reward: as of PPO.
      kl_coef: weight of the KL in its own reward.
      kl_estimator: of that KL.
      target_kl: as of PPO.
      horizon: as of PPO.
      importance_sampling_correction: as of GRPO.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
    """

    thresholds: tuple[tuple[str, float], ...] = (("reward", 0.5),)
    bound: Literal["sigmoid", "tanh", "unbounded"] = "tanh"
    multiplier_learning_rate: float = number(0.1, above=0)
    multiplier_momentum: float = number(0.1, at_least=0)
    multiplier_max_norm: float = number(0.5, above=0)
    multiplier_start: float | None = None
    threshold_search: ThresholdSearch | None = None
    vf_coef: float = number(1.0, at_least=0)
    vf_coef_kl: float = number(0.4, at_least=0)
    cliprange_value: float = number(0.0, at_least=0)
    gamma: float = number(0.99, at_least=0, at_most=1)
    kl_coef: float = number(0.2, above=0)

    INFO = Info(
        name="constrained_rlhf",
        family="rollouts",
        paper="Confronting Reward Model Overoptimization with Constrained RLHF",
        arxiv="2310.04373",
        certainty="the released code's updates and defaults, without its two defects; advantages are whitened over a "
        "generation, which is its minibatch where one step trains on it",
        function="jaxpo.losses.ppo",
    )

    def __post_init__(self) -> None:
        columns = tuple(stream_column(name, stream) for name in STREAMED for stream in self.streams)
        rest = tuple(name for name in PENALISED.per_token if name not in columns)
        kinds = ("reward",) if self.threshold_search is None else ("reward", "threshold")
        needs = Needs(
            PENALISED.roles,
            columns=tuple(f"{kind}:{name}" for kind in kinds for name in self.constraints),
            per_token=(*rest, *columns),
            networks=PENALISED.networks,
            extra=(CRITIC,),
        )
        object.__setattr__(self, "NEEDS", needs)

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the rewards that are held."""
        return tuple(name for name, _ in self.thresholds)

    @property
    def streams(self) -> tuple[str, ...]:
        return ("", *self.constraints)

    @property
    def penalty(self) -> Penalty:
        return Penalty(self.kl_coef, self.kl_estimator, self.target_kl, self.horizon)

    def problems(self) -> list[str]:
        found, name, held = super().problems(), self.INFO.name, self.constraints
        if self.score_scaling != "none":
            found.append(f"{name}.score_scaling: every stream is whitened, whatever its scale; leave it out.")
        if not held:
            found.append(f'{name}.thresholds: none; give the name of a reward and its threshold, (("reward", 0.5),).')
        if len(set(held)) < len(held):
            found.append(f"{name}.thresholds: {', '.join(held)}; every reward has one threshold.")
        if (search := self.threshold_search) is not None:
            if not len(search.low) == len(search.high) == len(held):
                found.append(
                    f"{name}.threshold_search: low and high need a number for each of the {len(held)} thresholds."
                )
            elif any(low >= high for low, high in zip(search.low, search.high, strict=True)):
                found.append(f"{name}.threshold_search: every low must lie below its high.")
            if not search.score or search.score in held:
                found.append(f"{name}.threshold_search.score: {search.score!r}; name a reward that is no constraint.")
            if search.generations < 1:
                found.append(f"{name}.threshold_search.generations: {search.generations} must be at least 1.")
        return found

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        from jaxpo.models.heads import critic_table

        return {CRITIC: critic_table(config, network=self.critic == "network", outputs=len(self.streams))}

    def init_carry(self) -> dict[str, Array]:
        """The multipliers before they are bounded, and their velocity."""
        import jax
        import jax.numpy as jnp

        count, start = len(self.constraints), self.multiplier_start
        if start is None and self.bound == "unbounded":
            start = 0.5
        drawn = 0.01 * jax.random.normal(jax.random.key(0), (count,))
        logits = drawn if start is None else jnp.full(count, start)
        return {"logits": logits.astype(jnp.float32), "velocity": jnp.zeros(count)}

    def after(self, carry: Any, stats: Any) -> Any:
        """A step of the multipliers, by the mean rewards of the step's answers; as they were where there is none."""
        import jax
        import jax.numpy as jnp

        from jaxpo.losses.constrained_rlhf import update_multipliers

        some = jnp.maximum(stats["answers"], 1.0)
        moved = update_multipliers(
            carry,
            stats["returns"] / some,
            stats["thresholds"] / some,
            bound=self.bound,
            learning_rate=self.multiplier_learning_rate,
            momentum=self.multiplier_momentum,
            max_norm=self.multiplier_max_norm,
        )
        return jax.tree.map(lambda a, b: jnp.where(stats["answers"] > 0, a, b), moved, carry)

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        """That of PPO, which is given the multipliers and gives the rewards that they follow."""
        plain = super().objective(scorer, options)

        def loss(features: Any, batch: Batch, carry: Any, counts: Counts) -> Out:
            x = features.replace(extra={**features.extra, "multipliers": self.multipliers(carry)})
            return replace(plain.loss(x, batch, carry, counts), stats=self.stats(x))

        return replace(plain, loss=loss)

    def multipliers(self, carry: Any) -> Array:
        """`[K]` m."""
        from jaxpo.losses.constrained_rlhf import multipliers

        found: Array = multipliers(carry["logits"], bound=self.bound)
        return found

    def stats(self, x: Rollouts) -> dict[str, Array]:
        """Sums over the answers that have all rewards."""
        import jax.numpy as jnp

        returns, here = self._returns(x)
        on = here.astype(jnp.float32)
        sums = jnp.sum(jnp.where(here[:, None], returns, 0.0), axis=0)
        return {"returns": sums, "thresholds": jnp.sum(on[:, None] * self._thresholds(x), axis=0), "answers": on.sum()}

    def _returns(self, x: Rollouts) -> tuple[Array, Array]:
        """`[N, K]` the constrained rewards of the answers, and who has all of them."""
        import jax.numpy as jnp

        returns = jnp.stack([x.columns[f"reward:{name}"] for name in self.constraints], axis=-1)
        return returns, x.present & jnp.all(jnp.isfinite(returns), axis=-1)

    def _thresholds(self, x: Rollouts) -> Array:
        """`[N, K]` of the generation where they are searched, else `[1, K]`."""
        import jax.numpy as jnp

        if self.threshold_search is None:
            return jnp.asarray([[theta for _, theta in self.thresholds]])
        return jnp.stack([x.columns[f"threshold:{name}"] for name in self.constraints], axis=-1)

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        from jaxpo.data.packing.batch import rows_of
        from jaxpo.objectives.families.critic import critic_heads

        values = critic_heads(scorer, params, batch, scores.hidden, rng)
        index = batch.roles["completion"]
        return {
            stream_column("values", stream): rows_of(values[i], index, batch) for i, stream in enumerate(self.streams)
        }

    def _advantages(self, x: Rollouts) -> Array:
        """`[N, T]` of all streams, mixed by the multipliers."""
        import jax.numpy as jnp

        from jaxpo.losses.constrained_rlhf import constrained_advantages

        each = jnp.stack([x.column(stream_column("advantages", stream)) for stream in self.streams], axis=-1)
        mixed: Array = constrained_advantages(each, x.extra["multipliers"], bound=self.bound)
        return mixed

    def _critics(self, x: Rollouts) -> list[tuple[float, Array]]:
        from jaxpo.losses import ppo_value

        found = []
        for stream in self.streams:
            old, returns = (x.column(stream_column(name, stream)) for name in ("old_values", "returns"))
            values, weight = x.extra[stream_column("values", stream)], self.vf_coef if stream else self.vf_coef_kl
            clip = self.cliprange_value or None
            found.append((weight, ppo_value(values, old, returns, x.mask, cliprange_value=clip)))
        return found

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """Those of PPO, `critic/*` of the KL's stream; and of every constraint `constraints/NAME/multiplier` and
        `constraints/NAME/gap`, mean reward less threshold."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        found = super().metrics(x)
        returns, here = self._returns(x)
        gaps = jnp.where(here[:, None], returns, 0.0) - self._thresholds(x)
        for i, name in enumerate(self.constraints):
            m = jnp.broadcast_to(x.extra["multipliers"][i], here.shape)
            found[f"constraints/{name}/multiplier"] = masked_mean(m, here)
            found[f"constraints/{name}/gap"] = masked_mean(gaps[:, i], here)
        return found
