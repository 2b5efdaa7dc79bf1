"""Methods on answers that the model itself wrote. No jax here at the top level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.base import number
from jaxpo.objectives.methods.features import FeatureMethod
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.data.rows.formats import Row
    from jaxpo.objectives.base import Counts, Objective, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Shape
    from jaxpo.objectives.families.rollouts import Rollouts
    from jaxpo.objectives.methods.outcomes import Outcomes, Paid

ROLLOUTS = Needs(roles=("completion",), per_token=("advantages", "sampling_logps"))
ROLLOUTS_AND_REFERENCE = Needs(
    roles=("completion",), per_token=("advantages", "sampling_logps"), networks=(("reference", "logps"),)
)

PENALISED = Needs(
    roles=("completion",),
    per_token=("advantages", "sampling_logps", "old_logps", "ref_logps"),
    networks=(("reference", "logps"),),
)
"""Of methods whose rewards have the KL in them: the source reads the reference, once per answer."""

Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Estimator = Literal["k1", "k2", "k3"]
Memory = Mapping[str, tuple[float, int]]
"""Problem -> (history, how many answers it comes from)."""


@dataclass(frozen=True)
class Penalty:
    """The KL to the reference that the source takes from rewards, see `jaxpo.online.penalty`.

    Attributes:
      coef: weight of the KL of the first generation.
      estimator: of the KL at a token: "k1", "k2", "k3".
      target: KL of an answer, in nats, that the weight is led towards; None = the weight stays.
      horizon: answers over which the weight may change by 0.2 of itself.
    """

    coef: float
    estimator: Estimator = "k1"
    target: float | None = None
    horizon: float = 10_000.0


@dataclass(frozen=True)
class ScoreScaling:
    """Rewards of answers over the running deviation of all so far, see `jaxpo.online.scaling`.

    Attributes:
      kind: "scale" divides by it; "norm" subtracts the running mean before.
      clip: bound of what comes out; None = none.
    """

    kind: Literal["scale", "norm"]
    clip: float | None = None


@dataclass(frozen=True)
class Advantage:
    """How the rewards of a group become advantages, see `jaxpo.online.advantages`.

    Attributes:
      baseline: what is subtracted: the group's "mean", the mean of the others ("leave_one_out"), or "none".
      scale: the standard deviation that it is divided by: of the "group", of the "batch" (a whole generation), or
        "none"; "answers" whitens what is left over all answers of a generation, "tokens" over all their tokens, so that
        long answers count more.
      epsilon: added to the standard deviation.
      boost: added to the advantages of answers whose reward is at least 1, last of all.
    """

    baseline: Literal["mean", "leave_one_out", "none"] = "mean"
    scale: Literal["group", "batch", "none", "answers", "tokens"] = "group"
    epsilon: float = 1e-4
    boost: float = 0.0


def stream_column(name: str, stream: str) -> str:
    """The column of a stream: that of the KL has the plain name."""
    return f"{name}:{stream}" if stream else name


class FromAnswers:
    """What the source of answers asks of a method.

    Attributes:
      BY_TOKEN: `token_advantages` makes the advantages.
      PAYS: `paid` changes the rewards by what became of the answers, right or wrong.
      BINARY: a reward of exactly 1 is right, one of exactly 0 wrong, and any other says neither.
      REMEMBERS: and by what became of those before, a fold over the ledger by `remembered`.
    """

    BY_TOKEN: ClassVar[bool] = False
    PAYS: ClassVar[bool] = False
    BINARY: ClassVar[bool] = False
    REMEMBERS: ClassVar[bool] = False

    def problems_in(self, stage: Any) -> list[str]:
        """What is wrong with the method in a stage (`jaxpo.config.Online`); each begins with a field of it."""
        return []

    @property
    def advantage(self) -> Advantage:
        """How the source makes advantages for it."""
        return Advantage()

    @property
    def scaling(self) -> ScoreScaling | None:
        """How the source scales the rewards of answers, before the KL is taken off; None = not."""
        return None

    @property
    def threshold_search(self) -> Any:
        """How the thresholds of its rewards are searched; None = it has none, or they stay."""
        return None

    @property
    def streams(self) -> tuple[str, ...]:
        """Rewards that have advantages of their own, beside "", which is the KL's then; ("",) = one for all."""
        return ("",)

    @property
    def spreads(self) -> bool:
        """Whether an answer's reward is split evenly over its tokens (`BY_TOKEN`); else the last one has it."""
        return False

    @property
    def answering(self) -> Answering:
        """Who writes the answers that the source makes for it."""
        return Answering()

    @property
    def penalty(self) -> Penalty | None:
        """The KL that the source takes from rewards; None = none."""
        return None

    def paid(self, rewards: np.ndarray, outcomes: Outcomes, memory: Memory) -> Paid:
        """The rewards that are compared, of methods that say `PAYS`.

        Args:
          rewards: float64 `[G, K]`, the stage's sum; NaN where no reward says anything.
          outcomes: of the same answers.
          memory: of all generations before; empty where nothing is remembered.
        """
        raise NotImplementedError(f"{type(self).__name__} pays rewards as they are")

    def remembered(self, memory: Memory, outcomes: Outcomes) -> Memory:
        """The memory after a generation, of methods that say `REMEMBERS`; the one given is left as it was."""
        raise NotImplementedError(f"{type(self).__name__} remembers nothing")

    def check_rows(self, rows: Sequence[Row]) -> None:
        """The rows have what `paid` reads of them; DataError."""

    def token_advantages(
        self, rewards: np.ndarray, values: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Advantages and returns of every token of a generation, where they differ within an answer (`BY_TOKEN`).

        Args:
          rewards: float64 `[N, T]` of the tokens that the model wrote, side by side, with the KL in them.
          values: `[N, T]` of the critic before each token; zeros without one.
          mask: `[N, T]` the tokens of answers that have a reward.

        Returns:
          Both `[N, T]`.
        """
        raise NotImplementedError(f"{type(self).__name__}: every token has its answer's advantage")


@dataclass(frozen=True)
class RolloutMethod(FromAnswers, FeatureMethod):
    """A method on answers: `loss` reads a `Rollouts`; counts are "answers" and "tokens"."""

    TOKENS: ClassVar[bool] = True

    def shape(self) -> Shape:
        from jaxpo.objectives.families.rollouts import ROLLOUT_SHAPE

        return ROLLOUT_SHAPE

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        """Shares of the answers in the loss, each under the name of the count that divides it."""
        raise NotImplementedError(f"{type(self).__name__} gives no terms")

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.base import Out

        def loss(features: Any, batch: Batch, carry: Any, counts: Counts) -> Out:
            terms = self.terms(features, options.max_completion_length or batch.max_segment)
            return Out(self.reduce(features, terms, counts), self.all_metrics(features), {})

        read = {REFERENCE} if self.penalty is not None else set()  # the source has read the reference
        known = replace(options, recorded=options.recorded | read)
        return replace(super().objective(scorer, known), loss=loss)


@dataclass(frozen=True)
class PolicyGradient(RolloutMethod):
    """A method that weighs the log-probs of tokens by advantages, and corrects for a sampler that differs.

    Attributes:
      importance_sampling_correction: of a sampler that differs from the trainer, by token or answer, its weights cut
        at the cap or left out beyond it.
      importance_sampling_cap: see there.
      importance_sampling_floor: likewise from below; None = none. IcePop is "token_mask" with 0.5 and 5.
    """

    importance_sampling_correction: Correction = field(default="sequence_mask", kw_only=True)
    importance_sampling_cap: float = number(3.0, above=0, kw_only=True)
    importance_sampling_floor: float | None = number(None, above=0, kw_only=True)

    def corrections(self, x: Rollouts, level: str | None = None) -> Array | None:
        """`[N, T]` weights of the trainer's distribution over the sampler's; None where nothing is corrected."""
        from jaxpo.losses import off_policy_weights

        if self.importance_sampling_correction == "none":
            return None
        own, _, mode = self.importance_sampling_correction.partition("_")
        how: dict[str, Any] = {"level": level or own, "mode": mode}
        low, high = self.importance_sampling_floor, self.importance_sampling_cap
        weights: Array = off_policy_weights(x.old_logps, x.sampling_logps, x.mask, low=low, high=high, **how)
        return weights

    def corrected(self, x: Rollouts, terms: Array) -> Array:
        """`[N, T]` terms under these weights."""
        weights = self.corrections(x)
        return terms if weights is None else terms * weights

    def problems(self) -> list[str]:
        found, low, high = super().problems(), self.importance_sampling_floor, self.importance_sampling_cap
        if low is not None and low >= high:
            found.append(
                f"{self.INFO.name}.importance_sampling_floor: {low} must lie below importance_sampling_cap ({high})."
            )
        return found


def penalty_of(coef: float, estimator: Estimator, target: float | None, horizon: float) -> Penalty | None:
    """The penalty with these settings; None at a weight of 0."""
    return Penalty(coef, estimator, target, horizon) if coef > 0 else None
