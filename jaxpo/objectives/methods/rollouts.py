"""Methods on answers that the model itself wrote. No jax here at the top level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.features import FeatureMethod
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Objective, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Shape
    from jaxpo.objectives.families.rollouts import Rollouts

ROLLOUTS = Needs(roles=("completion",), per_token=("advantages", "sampling_logps"))
ROLLOUTS_AND_REFERENCE = Needs(
    roles=("completion",), per_token=("advantages", "sampling_logps"), networks=(("reference", "logps"),)
)


@dataclass(frozen=True)
class Advantage:
    """How the rewards of a group become advantages, see `jaxpo.online.advantages`.

    Attributes:
      baseline: what is subtracted: the group's "mean", the mean of the others ("leave_one_out"), or "none".
      scale: the standard deviation that it is divided by: of the "group", of the "batch" (a whole generation), or
        "none"; "tokens" whitens over all tokens of a generation, so that long answers count more.
      epsilon: added to the standard deviation.
    """

    baseline: Literal["mean", "leave_one_out", "none"] = "mean"
    scale: Literal["group", "batch", "none", "tokens"] = "group"
    epsilon: float = 1e-4


@dataclass(frozen=True)
class RolloutMethod(FeatureMethod):
    """A method on answers: `loss` reads a `Rollouts`; counts are "answers" and "tokens"."""

    TOKENS: ClassVar[bool] = True

    @property
    def advantage(self) -> Advantage:
        """How the source makes advantages for it."""
        return Advantage()

    @property
    def answering(self) -> Answering:
        """Who writes the answers that the source makes for it."""
        return Answering()

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

        return replace(super().objective(scorer, options), loss=loss)
