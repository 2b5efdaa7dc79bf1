"""Preference Orchestrator: an adapter from prompts to weights of several rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rewards import Reading, Rewards

GROUP = "orchestrator"


@dataclass(frozen=True)
class PROOrchestrator(RewardMethod):
    """Weights of K rewards from the prompt, learnt from the rewards of preferred responses, column `ratings`.

    The adapter has two layers on the mean of the prompt's final states; `train=("orchestrator/*",)` of the stage keeps
    the model as it is. Statistics of the training rows lie beside the adapter's weights.

    Attributes:
      objectives: names of the rewards, in alphabetical order.
      temperature: tau of the targets.
      normaliser: "z_score", or "min_max" over the training rows.
      width: of the adapter's hidden layer.
    """

    objectives: tuple[str, ...] = ("helpful", "short")
    temperature: float = number(1.0, above=0)
    normaliser: Literal["z_score", "min_max"] = "z_score"
    width: int = number(256, at_least=1)

    INFO = Info(
        name="pro_orchestrator",
        family="reward model",
        paper="Preference Orchestrator: Prompt-Aware Multi-Objective Alignment for Large Language Models",
        arxiv="2511.10656",
        certainty="abstract and a summary; normaliser, temperature, adapter and KL's direction are reconstructed",
    )
    NEEDS = Needs(roles=("completion",), columns=("ratings",), extra=(GROUP,))
    NAMED: ClassVar[Mapping[str, str]] = {"ratings": "objectives"}
    PARTS_OF: ClassVar[Mapping[str, str]] = {GROUP: "objectives"}
    METRICS: ClassVar[tuple[str, ...]] = ("argmax_accuracy", "weights_entropy", "targets_entropy")
    UNMEASURED: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")
    NO_REWARD = (
        "pro_orchestrator gives the weights of rewards for a prompt, and no reward; name it in "
        "OrchestratedJudge(weights_of=...) or `jaxpo data construct pro_weights`."
    )

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.objectives or list(self.objectives) != sorted(set(self.objectives)):
            found.append(
                f"pro_orchestrator: objectives is {self.objectives!r} but must be different names in alphabetical "
                "order."
            )
        return found

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """The rows have the rewards that there are weights for."""
        given = names.get("ratings", self.objectives)
        if given == self.objectives:
            return []
        return [
            f"pro_orchestrator: the rows hold {', '.join(given)}, but objectives is {', '.join(self.objectives)}; give "
            "their names there, in alphabetical order."
        ]

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Every row has all rewards."""
        import numpy as np

        ratings = np.asarray(columns.get("ratings", ()), np.float64)
        if ratings.ndim == 2 and ratings.shape[1] != len(self.objectives):
            return [
                f"pro_orchestrator: column 'ratings' holds {ratings.shape[1]} reward(s), but objectives has "
                f"{len(self.objectives)} entries; give their names there, in alphabetical order."
            ]
        if ratings.size and np.isnan(ratings).any():
            return ["pro_orchestrator: a row lacks one of the rewards; score every row by all of them."]
        return []

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"ratings": (len(self.objectives),)}

    def first_values(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The statistics of the training rows' rewards."""
        import numpy as np

        ratings = np.asarray(columns["ratings"], np.float64)
        if self.normaliser == "z_score":
            offset, scale = ratings.mean(axis=0), ratings.std(axis=0)
        else:
            offset, scale = ratings.min(axis=0), np.ptp(ratings, axis=0)
        return {GROUP: {"offset": offset.astype(np.float32), "scale": scale.astype(np.float32)}}

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """Two layers, and the statistics."""
        from jaxpo.models.heads import adapter_head_table

        return {GROUP: adapter_head_table(config, self.width, len(self.objectives))}

    def read_states(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """ "logits" `[R, M, K]`, of the mean state of each prompt; "statistics" `[R, M, 2, K]`, the same for all."""
        import jax
        import jax.numpy as jnp

        from jaxpo.models.heads import adapter_head

        own = params[GROUP]
        logits = adapter_head(own, prompt_means(hidden, batch))
        statistics = jax.lax.stop_gradient(jnp.stack([own["offset"], own["scale"]]))
        return {"logits": logits, "statistics": jnp.broadcast_to(statistics, (*logits.shape[:2], *statistics.shape))}

    def head_names(self) -> tuple[str, ...]:
        return self.objectives

    def head_values(self, reading: Reading) -> Array:
        """The weights."""
        import jax

        return jax.nn.softmax(reading["logits"], axis=-1)

    def rated(self, ratings: Array, present: Array) -> Array:
        """Rows that have all rewards, `[N]`: of held-out rows some may lack one."""
        import jax.numpy as jnp

        return present & ~jnp.any(jnp.isnan(ratings), axis=-1)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "rated", rows that have all rewards."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.rewards import examples_present

        here = self.rated(batch.per_example["ratings"], examples_present(batch, self.NEEDS))
        return super().counts(batch) | {"rated": jnp.sum(here.astype(jnp.float32))}

    def targets(self, x: Rewards) -> tuple[Array, Array]:
        """w* of each row, `[N, K]`, and which rows have one, `[N]`."""
        import jax.numpy as jnp

        from jaxpo.losses import orchestrator_targets

        here = self.rated(x.columns["ratings"], x.present)
        statistics = x.roles["completion"]["statistics"]
        rewards = jnp.where(here[:, None], x.columns["ratings"], 0.0)
        # Absent rows have statistics of 0.
        offset, scale = statistics[:, 0], jnp.where(here[:, None], statistics[:, 1], 1.0)
        return orchestrator_targets(rewards, offset, scale, temperature=self.temperature), here

    def loss(self, x: Rewards) -> dict[str, Array]:
        from jaxpo.losses import pro_orchestrator

        targets, here = self.targets(x)
        return {"rated": pro_orchestrator(x.roles["completion"]["logits"], targets, where=here)}

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        return {}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """How often the largest weight is the target's, and entropies in nats."""
        import jax
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        z, (target, here) = x.roles["completion"]["logits"], self.targets(x)
        logs = jax.nn.log_softmax(z, axis=-1)
        same = jnp.argmax(z, axis=-1) == jnp.argmax(target, axis=-1)
        return {
            "argmax_accuracy": masked_mean(same.astype(jnp.float32), here),
            "weights_entropy": masked_mean(-jnp.sum(jnp.exp(logs) * logs, axis=-1), here),
            "targets_entropy": masked_mean(jnp.sum(jax.scipy.special.entr(target), axis=-1), here),
        }


def prompt_means(hidden: Array, batch: Batch) -> Array:
    """Mean final state of each segment's prompt, `[R, M, D]` float32; of the whole segment where it is a prompt alone.

    Where every token from the second on is learnt, a row is about the prompt itself.
    """
    import jax.numpy as jnp

    from jaxpo.ops.segments import segment_bounds

    inside = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    given = inside & ~batch.masks["completion"][:, None, :]
    start, _ = segment_bounds(batch.segment_ids, batch.slots)
    first = jnp.arange(batch.tokens.shape[1])[None, None, :] == start[..., None]
    whole = ~jnp.any(given & ~first, axis=-1, keepdims=True)
    read = jnp.where(whole, inside, given).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(read, axis=-1, keepdims=True), 1.0)
    states = jnp.where(batch.segment_ids[..., None] > 0, hidden.astype(jnp.float32), 0.0)
    return jnp.einsum("rms,rsd->rmd", read, states) / count
