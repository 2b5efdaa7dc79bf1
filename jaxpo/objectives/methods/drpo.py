"""DRPO: right and wrong answers of a question apart, the right ones weighed by their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Metric
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class DRPO(RolloutMethod):
    """Short right answers pull harder than long ones, wrong answers are pushed down apart from them, within a trust
    region instead of a clip. Of a question whose answers are all right or all wrong nothing is learnt. Rewards that are
    exactly 1 are right, exactly 0 wrong; any other is in neither set (`drpo/neither`).

    Attributes:
      lam: how far lengths move the weights of right answers: the smaller, the shorter they become.
      weights: by "length", or "equal" for all right answers: DisCO, which is lam = infinity.
      tau: temperature of the wrong answers; towards 0 the likeliest one alone is pushed down.
      score: an answer's mean "log_likelihood" (DRPO), or its mean "likelihood_ratio" to the policy that wrote it, which
        DisCO has beside it.
      delta: divergence from the sampling policy that costs nothing, in nats per token.
      penalty_weight: of the square of what is beyond; it acts where answers serve several steps.
      longest: tokens that lengths are divided by; None = max_completion_length.
    """

    lam: float = number(0.1, above=0)
    weights: Literal["length", "equal"] = "length"
    tau: float = number(10.0, above=0)
    score: Literal["log_likelihood", "likelihood_ratio"] = "log_likelihood"
    delta: float = number(1e-4, at_least=0)
    penalty_weight: float = number(1e3, at_least=0)
    longest: int | None = number(None, above=0)

    INFO = Info(
        name="drpo",
        family="rollouts",
        paper="Efficient Reasoning via Decoupled Reward Policy Optimization",
        arxiv="2510.04474",
        certainty="objective, weights, KL penalty and defaults are those of the official code, whose printed loss is "
        "another one with the same gradient",
    )
    NEEDS = ROLLOUTS
    COUPLED: ClassVar[bool] = True
    BINARY: ClassVar[bool] = True

    @property
    def advantage(self) -> Advantage:
        return Advantage("mean", "none")

    def counts(self, batch: Batch) -> dict[str, Array]:
        from jaxpo.objectives.families.questions import questions

        return {**super().counts(batch), "questions": questions(batch)}

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses import drpo, drpo_scores

        columns = x.columns
        found = drpo(
            drpo_scores(x.logps, x.old_logps, x.mask, score=self.score),
            columns["reward"],
            columns["answer_length"],
            columns["group"].astype("int32"),
            longest=float(self.longest or max_completion_length),
            lam=self.lam if self.weights == "length" else None,
            tau=self.tau,
            where=self._judged(x),
        )
        return {"questions": found}

    def _judged(self, x: Rollouts) -> Array:
        """Answers that have a reward and a trained token."""
        import jax.numpy as jnp

        return x.present & (x.columns["rewarded"] > 0) & jnp.any(x.mask, axis=-1)

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        """The questions' mean, and the trust region of the whole step."""
        import jax.numpy as jnp

        from jaxpo.losses import drpo_trust_region, kl_k1

        x: Rollouts = features
        drift = -jnp.sum(kl_k1(x.logps, x.old_logps, where=x.mask)) / jnp.maximum(counts["tokens"], 1.0)
        region = drpo_trust_region(drift, delta=self.delta, penalty=self.penalty_weight)
        return super().reduce(features, terms, counts) + region

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`kl`: from the sampling policy, per token; `drpo/neither`: share of rewards that are neither 1 nor 0."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        reward, judged = x.columns["reward"], self._judged(x)
        neither = (reward != 1) & (reward != 0)
        return {
            "kl": masked_mean(x.old_logps - x.logps, x.mask),
            "drpo/neither": masked_mean(neither.astype(jnp.float32), judged),
        }
