"""Tool-augmented reward modelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rewards import Rewards

PART = "part"


@dataclass(frozen=True)
class Themis(RewardMethod):
    """Reward model that calls tools before it judges: value head at the end, likelihood of what it writes on the way.

    Rows carry `chosen_parts` and `rejected_parts`, which `jaxpo data construct themis` makes; `ToolRewardJudge` scores
    with it.

    Attributes:
      alpha: weight of the likelihood of calls, observations and rationales.
      beta: of the observations in it; 0 leaves them out.
      omega: of the rationales; 0 leaves them out.
      lm: learn the chosen answer, too.
      rank_weight: of the ranking; the released code has 0.5, with normalisation "pooled".
      normalisation: "terms" averages over the tokens of each call, observation and rationale, and over pairs; "pooled"
        over all supervised tokens of a step.
    """

    alpha: float = number(1.0, at_least=0)
    beta: float = number(1.0, at_least=0)
    omega: float = number(1.0, at_least=0)
    lm: bool = False
    rank_weight: float = number(1.0, above=0)
    normalisation: Literal["terms", "pooled"] = "terms"

    INFO = Info(
        name="themis",
        family="reward model",
        paper="Tool-Augmented Reward Modeling",
        arxiv="2310.01045",
        certainty="paper, section 2.4; authors' code for the pooled form; how the paper averages is not said",
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("value",), per_token=(PART,))
    METRICS: ClassVar[tuple[str, ...]] = ("nll_tool", "nll_observation", "nll_rationale")

    def also_read(self, scorer: Scorer, params: Any, hidden: Array, batch: Batch) -> dict[str, Array]:
        """Log-probs and tokens of every part, `[R, M, 8]`."""
        return {
            "logps": sums_by_part(scorer.logps(params["model"], batch, hidden), batch),
            "tokens": tokens_by_part(batch),
        }

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "lm_tokens", those that are supervised."""
        import jax.numpy as jnp

        from jaxpo.data.packing.batch import take
        from jaxpo.losses import themis_tokens
        from jaxpo.objectives.families.rewards import examples_present

        tokens = tokens_by_part(batch)
        sides = [take(tokens, batch.roles[role], batch) for role in ("chosen", "rejected")]
        here = examples_present(batch, self.NEEDS)
        found = themis_tokens(*sides, beta=self.beta, omega=self.omega, lm=self.lm, where=here)
        return super().counts(batch) | {"lm_tokens": jnp.sum(found)}

    def loss(self, x: Rewards) -> dict[str, Array]:
        """The ranking per pair, the likelihood per pair or per token."""
        from jaxpo.losses import themis

        rank, likelihood = themis(
            *x.pair(),
            *x.pair("logps"),
            *x.pair("tokens"),
            alpha=self.alpha,
            beta=self.beta,
            omega=self.omega,
            lm=self.lm,
            rank_weight=self.rank_weight,
            normalisation=self.normalisation,
            where=x.present,
        )
        if self.normalisation == "pooled":
            return {"examples": rank, "lm_tokens": likelihood}
        return {"examples": rank + likelihood}

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """Negative log-likelihood per token of calls, of observations and of rationales, whatever they weigh."""
        import jax.numpy as jnp

        from jaxpo.losses.themis import CALLS
        from jaxpo.objectives.base import Mean

        totals = []
        for name in ("logps", "tokens"):
            both = sum(jnp.where(x.present[:, None], side, 0.0) for side in x.pair(name))
            totals.append(jnp.sum(jnp.asarray(both), axis=0))
        logps, tokens = totals
        parts = {"tool": slice(0, 2 * CALLS, 2), "observation": slice(1, 2 * CALLS, 2), "rationale": 2 * CALLS}
        return {f"nll_{name}": Mean(-jnp.sum(logps[at]), jnp.sum(tokens[at])) for name, at in parts.items()}


def tokens_by_part(batch: Batch) -> Array:
    """Tokens of every part of every segment, `[R, M, 8]`."""
    import jax.numpy as jnp

    return sums_by_part(jnp.ones(batch.tokens.shape, jnp.float32), batch)


def sums_by_part(x: Array, batch: Batch) -> Array:
    """Sums over the tokens of every part of every segment, `[R, S] -> [R, M, 8]`.

    What is learnt but belongs to no part is the end of the answer, and counts to the rationale where there is one.
    """
    import jax.numpy as jnp

    from jaxpo.losses.themis import CALLS, PARTS
    from jaxpo.objectives.families.features import segment_sums

    learnt, part = batch.masks["completion"], batch.per_token[PART]
    ends = segment_sums(x, learnt & (part == 0), batch)
    sums = [segment_sums(x, learnt & (part == k + 1), batch) for k in range(PARTS)]
    ones = jnp.ones(part.shape, jnp.float32)
    concluded = segment_sums(ones, learnt & (part == 2 * CALLS + 1), batch) > 0
    sums[2 * CALLS] = sums[2 * CALLS] + jnp.where(concluded, ends, 0.0)
    return jnp.stack(sums, axis=-1)
