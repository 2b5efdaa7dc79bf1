"""Tree preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod
from jaxpo.objectives.methods.list_checks import outside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores
    from jaxpo.objectives.families.lists import Ranked


@dataclass(frozen=True)
class TPOTree(ListMethod):
    """All graded branches of a reasoning tree as one list, scored by log-ratios per step that adaptive weights combine.

    Steps beyond the shortest branch's number of steps count to its last one, so that the steps of a list align; the
    turn end counts to the last step.

    Attributes:
      beta: scale of the branches' scores.
      step_weights: "one_plus_cos" weights a step by how much it resembles the best branch's (the authors' code),
        "one_minus_cos" by how much it differs, "uniform" not at all.
      stop_gradient: treat the weights as constants; the authors' code lets the gradient through.
      pooling: the log-ratio of a step is the mean or the sum over its tokens.
      normalize: divide a branch's score by the sum of its weights.
      gain: weight pairs by their difference in grade.
      discount: weight pairs by their difference in discounted rank.
      max_steps: steps beyond it count to the last.
    """

    beta: float = number(0.5, above=0)
    step_weights: Literal["one_plus_cos", "one_minus_cos", "uniform"] = "one_plus_cos"
    stop_gradient: bool = True
    pooling: Literal["mean", "sum"] = "mean"
    normalize: bool = True
    gain: bool = True
    discount: bool = True
    max_steps: int = number(32, at_least=1)

    INFO = Info(
        name="tpo_tree",
        family="lists",
        paper="TPO: Aligning Large Language Models with Multi-branch & Multi-step Preference Trees",
        arxiv="2410.12854",
        certainty="step merging, pooling and weights from the authors' code; list loss from the abstract (the released "
        "loss has the wrong sign); the paper's Eq. 10 was not read",
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), networks=(("reference", "logps"),), per_token=("step",))
    TOKENS = True
    HIDDEN = True
    METRICS = ("rewards/tree_accuracies", "steps")

    def __post_init__(self) -> None:
        object.__setattr__(self, "HIDDEN", self.step_weights != "uniform")

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Grades must lie in [0, 1] for the gain."""
        found = outside(columns, 0.0, 1.0) if self.gain else None
        remedy = "rescale them, for example (score + 100) / 200, or set gain to False."
        return [f"tpo_tree: {found}, but the gain 2^grade needs grades in [0, 1]; {remedy}"] if found else []

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """Hidden states summed over each step's tokens, `[N, K, steps, D]`, so that `[N, K, T, D]` never exists."""
        import jax

        if self.step_weights == "uniform":
            return {}
        hidden = jax.lax.stop_gradient(scores.hidden) if self.stop_gradient else scores.hidden
        return {"hidden": step_states(hidden, batch, self.max_steps)}

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import tpo_tree

        log_ratios, tokens, weights, where = self._steps(ranked)
        terms = tpo_tree(
            log_ratios,
            tokens,
            weights,
            ranked.labels,
            where,
            beta=self.beta,
            pooling=self.pooling,
            normalize=self.normalize,
            gain=self.gain,
            discount=self.discount,
        )
        return {"lists": terms}

    def metrics(self, ranked: Ranked) -> dict[str, Metric]:
        """Share of differently graded pairs that the branches' scores order as the grades do; steps after merging."""
        import jax.numpy as jnp

        from jaxpo.losses import tree_scores
        from jaxpo.losses.ranking import ordered
        from jaxpo.objectives.base import masked_mean

        log_ratios, tokens, weights, where = self._steps(ranked)
        s = tree_scores(
            log_ratios, tokens, weights, where, beta=self.beta, pooling=self.pooling, normalize=self.normalize
        )
        right = (s[:, :, None] > s[:, None, :]).astype(jnp.float32)
        steps = jnp.sum(tokens > 0, axis=2).astype(jnp.float32)
        pairs = ordered(jnp.where(where, ranked.labels, 0.0), where)
        return {"rewards/tree_accuracies": masked_mean(right, pairs), "steps": masked_mean(steps, where)}

    def _steps(self, ranked: Ranked) -> tuple[Array, Array, Array, Array]:
        """Summed log-ratios, numbers of tokens and weights of the merged steps, `[N, K, S]`; branches `[N, K]`."""
        import jax.numpy as jnp

        from jaxpo.losses import labelled_sums, merge_steps, shortest, step_weights

        rows = ranked.candidates.tokens
        steps = in_steps(rows.column("step"), rows.mask)
        ratio, tokens = (
            labelled_sums(x, steps, count=self.max_steps)
            for x in (rows.logps - rows.ref_logps, jnp.ones(steps.shape, jnp.float32))
        )
        where = ranked.present & jnp.any(tokens > 0, axis=2)
        fewest = shortest(tokens, where)
        ratio, tokens = (merge_steps(x, fewest) for x in (ratio, tokens))
        hidden = jnp.zeros((*tokens.shape, 1)) if self.step_weights == "uniform" else ranked.extra["hidden"]
        weights = step_weights(
            merge_steps(hidden, fewest),
            tokens,
            ranked.labels,
            where,
            mode=self.step_weights,
            stop_gradient=self.stop_gradient,
        )
        return ratio, tokens, weights, where


def in_steps(step: Array, mask: Array) -> Array:
    """Step of every supervised token: a token without a number (the turn end) belongs to the step before it."""
    import jax
    import jax.numpy as jnp

    seen = jax.lax.cummax(jnp.where(mask, step, 0), axis=step.ndim - 1)
    return jnp.where(mask, seen, 0)


def step_states(hidden: Array, batch: Batch, max_steps: int) -> Array:
    """Sum of `[R, S, D]` over the tokens of each step of each candidate: `[N, K, max_steps, D]`, float32."""
    import jax
    import jax.numpy as jnp

    from jaxpo.data.packing.batch import take

    step, slot = batch.per_token["step"], batch.segment_ids - 1
    inside = (step > 0) & (slot >= 0)
    index = jnp.where(inside, slot * max_steps + jnp.minimum(step, max_steps) - 1, -1)
    member = jax.nn.one_hot(index, batch.slots * max_steps, dtype=hidden.dtype)
    sums = jnp.einsum(
        "rsm,rsd->rmd",
        member,
        jnp.where(inside[..., None], hidden, 0),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )
    return take(sums.reshape(sums.shape[0], batch.slots, max_steps, -1), batch.roles["candidate"], batch)
