"""Methods on log-probs: what is read of the networks are sums per response, and per-token rows where asked for.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import REFERENCE
from jaxpo.objectives.diagnostics import DIAGNOSTICS
from jaxpo.objectives.methods.base import ArrayMethod, Encode
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Counts, Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores, Shape, Side
    from jaxpo.objectives.families.pairs import Pair, Terms


@dataclass(frozen=True)
class FeatureMethod(ArrayMethod):
    """A function of log-probs, counts and other sums per response.

    Attributes:
      TOKENS: the sides carry their per-token rows.
      HIDDEN: `encode_extra` reads the policy's final hidden states.
    """

    TOKENS: ClassVar[bool] = False
    HIDDEN: ClassVar[bool] = False

    @abstractmethod
    def shape(self) -> Shape:
        """How features of this method's family are gathered, counted and reported."""

    def reward(self, side: Side) -> Array:
        """`beta (P - R)`, which is `beta P` without a reference: what TRL logs as rewards. For the metrics alone."""
        return getattr(self, "beta", 1.0) * side.log_ratio

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """Further features, example axis N first, as `features.extra`. In evaluation rng is None: no dropout."""
        return {}

    def counts(self, batch: Batch) -> dict[str, Array]:
        return self.shape().counts(batch, self.NEEDS)

    def common_metrics(self, features: Any) -> dict[str, Metric]:
        return self.shape().metrics(features, self.reward)

    def diagnose(self, features: Any, names: tuple[str, ...]) -> dict[str, Metric]:
        beta, referenced = getattr(self, "beta", 1.0), self.NEEDS.kind(REFERENCE) != "none"
        found: dict[str, Metric] = {}
        for name in names:
            found |= DIAGNOSTICS[name].measure(self.compared(features), beta, reference=referenced)
        return found

    def compared(self, features: Any) -> Pair:
        """The two responses that diagnostics compare."""
        raise NotImplementedError(f"{type(self).__name__} compares no two responses to one prompt")

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        from jaxpo.objectives.families.features import Wanted, score

        shape = self.shape()
        scorers = {name: scorer.alike(other) for name, other in options.scorers.items()}
        want = Wanted(self.NEEDS, options.recorded, self.TOKENS, self.HIDDEN, options.use_weighting, scorers)

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Any, dict[str, Any]]:
            scores = score(scorer, params, frozen, batch, want, rng)
            extra = self.encode_extra(scorer, params, frozen, batch, scores, rng)
            return shape.features(scores, batch, want, extra), scores.aux

        return encode


@dataclass(frozen=True)
class PairMethod(FeatureMethod):
    """A method on pairs: `loss` reads a `Pair`; counts are "pairs", "chosen_tokens", and "ROLEs" and "ROLE_tokens"."""

    COMPARES = True

    @property
    def weighs_pairs(self) -> bool:
        # A coupled loss is a term per rank of the batch, not per pair.
        return type(self).evaluate is ArrayMethod.evaluate and not self.COUPLED

    def shape(self) -> Shape:
        from jaxpo.objectives.families.pairs import PAIR_SHAPE

        return PAIR_SHAPE

    def compared(self, features: Any) -> Pair:
        pair: Pair = features
        return pair

    def right(self, features: Any) -> tuple[Array, Array]:
        return self.reward(features.chosen) > self.reward(features.rejected), features.present

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        """Each pair's terms times its WPO weight, if any, over their denominators."""
        from jaxpo.objectives.families.pairs import reduce_terms, weighted

        return reduce_terms(weighted(features, terms), counts)


@dataclass(frozen=True)
class LikelihoodMethod(PairMethod):
    """A method on pairs that also raises the likelihood of the chosen response."""

    METRICS: ClassVar[tuple[str, ...]] = ("nll_loss",)

    def metrics(self, features: Any) -> dict[str, Metric]:
        """`nll_loss`: negative log-likelihood per chosen token, without its weight."""
        from jaxpo.objectives.families.pairs import chosen_nll

        return {"nll_loss": chosen_nll(features)}


@dataclass(frozen=True)
class ListMethod(FeatureMethod):
    """A method on lists of scored responses: `loss` reads a `Ranked`; counts are "lists" and "pairs" (of labels)."""

    COMPARES = True

    def shape(self) -> Shape:
        from jaxpo.objectives.families.lists import LIST_SHAPE

        return LIST_SHAPE

    def compared(self, features: Any) -> Pair:
        """The best- and the worst-labelled response of each list."""
        from jaxpo.objectives.families.lists import ends

        return ends(features)

    def right(self, features: Any) -> tuple[Array, Array]:
        from jaxpo.objectives.families.lists import judgements

        return judgements(features, self.reward(features.candidates))

    def diagnose(self, features: Any, names: tuple[str, ...]) -> dict[str, Metric]:
        from jaxpo.objectives.diagnostics import measure_list_ranking

        whole = measure_list_ranking(features) if "ranking_accuracy" in names else {}
        return super().diagnose(features, names) | whole


@dataclass(frozen=True)
class UnpairedMethod(FeatureMethod):
    """A method on single labelled responses: `loss` reads an `Unpaired`; counts are "rows", "chosen", "rejected"."""

    def shape(self) -> Shape:
        from jaxpo.objectives.families.unpaired import UNPAIRED_SHAPE

        return UNPAIRED_SHAPE
