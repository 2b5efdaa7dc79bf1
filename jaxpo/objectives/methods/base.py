"""What every method of the catalogue is: a frozen dataclass of hyper-parameters that builds an objective.

No jax here or in the method modules' top level: the command line lists and explains methods without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import RECORDABLE, REFERENCE, Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.diagnostics import DIAGNOSTICS
from jaxpo.objectives.methods.options import Options, why_not_recorded
from jaxpo.objectives.methods.ranges import field_problems

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.lfm2.config import LFM2Config
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Counts, Metric, Objective, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores, Shape, Side
    from jaxpo.objectives.families.pairs import Pair, Terms

PAIRS = Needs(roles=("chosen", "rejected"))
PAIRS_AND_REFERENCE = Needs(roles=("chosen", "rejected"), networks=(("reference", "logps"),))


@dataclass(frozen=True)
class Info:
    """A method's entry in the catalogue.

    Attributes:
      name: on the command line and in `METHODS`.
      function: import path of the pure loss.
      family: shape of its data.
      paper: title.
      arxiv: identifier, or "" for what predates arXiv.
      certainty: where the formula comes from and what is open.
      aliases: other names that mean exactly this, TRL's `loss_type` among them.
    """

    name: str
    function: str
    family: Literal["pairs", "pairs, coupled", "unpaired", "lists", "reward model", "sft", "distillation"]
    paper: str
    arxiv: str
    certainty: str
    aliases: tuple[str, ...] = ()


def number(
    default: float | None, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> Any:
    """A numeric field with its range; one whose default is None may be left so."""
    return field(default=default, metadata={"above": above, "at_least": at_least, "at_most": at_most})


@dataclass(frozen=True)
class Method(ABC):
    """Base of the methods' dataclasses."""

    INFO: ClassVar[Info]
    NEEDS: ClassVar[Needs]

    @abstractmethod
    def objective(self, scorer: Scorer, options: Options) -> Objective:
        """Compose the objective; hyper-parameters are in range."""

    def build(
        self,
        scorer: Scorer,
        *,
        recorded: Collection[str] = (),
        use_weighting: bool = False,
        diagnostics: tuple[str, ...] = (),
        scorers: Mapping[str, Scorer] | None = None,
    ) -> Objective:
        """The objective of this method.

        Args:
          scorer: how the networks are run.
          recorded, use_weighting, diagnostics, scorers: see `Options`.

        Raises:
          ConfigError: a hyper-parameter out of range, or an option that this method cannot have.
        """
        options = Options(frozenset(recorded), use_weighting, tuple(diagnostics), scorers or {})
        problems = self.problems() + self.option_problems(options)
        if problems:
            raise ConfigError(problems)
        return self.objective(scorer, options)

    def option_problems(self, options: Options) -> list[str]:
        """Why this method cannot have these options, one sentence each; empty if it can."""
        name, found = self.INFO.name, []
        for network, kind in self.NEEDS.networks:
            if network in options.recorded and kind not in RECORDABLE:
                found.append(f"{name}: {why_not_recorded(network, kind)}")
        if options.diagnostics and not isinstance(self, PairMethod | ListMethod):
            found.append(
                f"{name}: diagnostics ({', '.join(options.diagnostics)}) compare two responses to one prompt, which "
                "this method's rows are not; leave them empty."
            )
        unknown = [d for d in options.diagnostics if d not in DIAGNOSTICS]
        if unknown:
            known = ", ".join(DIAGNOSTICS)
            found.append(f"{name}: unknown diagnostics {', '.join(unknown)}; there are: {known}.")
        # A coupled loss is a term per rank of the batch, not per pair.
        plain = isinstance(self, PairMethod) and type(self).evaluate is FeatureMethod.evaluate and not self.COUPLED
        if options.use_weighting and not plain:
            found.append(
                f"{name}: use_weighting (WPO) multiplies the loss of each pair, which this method does not have; "
                "set use_weighting to False."
            )
        return found

    def extra_tables(self, config: LFM2Config) -> dict[str, Table]:
        """Parameter tables of the groups in `NEEDS.extra`."""
        from jaxpo.models.heads import EXTRA_TABLES

        return {name: EXTRA_TABLES[name](config) for name in self.NEEDS.extra}

    def problems(self) -> list[str]:
        """Fields out of range and choices that do not exist, one sentence each; empty if there are none."""
        return field_problems(self)

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Problems of the data set's per-example columns (name -> numpy array); empty if there are none."""
        return []


@dataclass(frozen=True)
class FeatureMethod(Method):
    """A function of small feature arrays: subclasses give hyper-parameters, `INFO`, `NEEDS`, and `loss` or `evaluate`.

    Attributes:
      TOKENS: the sides carry their per-token rows.
      HIDDEN: `encode_extra` reads the policy's final hidden states.
      COUPLED: the loss mixes examples; it then sees all examples of a step at once.
      METRICS: names of the metrics beyond TRL's common ones.
      SAME_SHAPE: names of the networks that must have the trained one's architecture.
    """

    TOKENS: ClassVar[bool] = False
    HIDDEN: ClassVar[bool] = False
    COUPLED: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ()
    SAME_SHAPE: ClassVar[tuple[str, ...]] = ()

    def loss(self, features: Any) -> Terms:
        """Unreduced loss `[N]`, or a mapping from the name of a count to the term it divides."""
        raise NotImplementedError(f"{type(self).__name__} gives neither `loss` nor, with carried state, `evaluate`")

    @abstractmethod
    def shape(self) -> Shape:
        """How features of this method's family are gathered, counted and reported."""

    def reward(self, side: Side) -> Array:
        """`beta (P - R)`, which is `beta P` without a reference: what TRL logs as rewards. For the metrics alone."""
        return getattr(self, "beta", 1.0) * side.log_ratio

    def metrics(self, features: Any) -> dict[str, Metric]:
        """The metrics named in METRICS."""
        return {}

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """Further features, example axis N first, as `features.extra`. In evaluation rng is None: no dropout."""
        return {}

    def init_carry(self) -> Any:
        """State that the method carries between steps, before the first."""
        return {}

    def after(self, carry: Any, stats: Any) -> Any:
        """The carried state after a step, from the step's summed `Out.stats`."""
        return carry

    def evaluate(self, features: Any, batch: Batch, carry: Any, counts: Counts) -> Out:
        """Loss terms over their counts, metrics, and statistics for `after`."""
        from jaxpo.objectives.base import Out

        return Out(self.reduce(features, self.loss(features), counts), self.all_metrics(features), {})

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        """Sum of the terms over their denominators."""
        from jaxpo.objectives.families.pairs import reduce_terms

        return reduce_terms(terms, counts)

    def all_metrics(self, features: Any) -> dict[str, Metric]:
        """TRL's common metrics of the family, and the method's own."""
        return self.shape().metrics(features, self.reward) | self.metrics(features)

    def diagnose(self, features: Any, names: tuple[str, ...]) -> dict[str, Metric]:
        """The metrics of the diagnostics that the stage switched on."""
        beta, referenced = getattr(self, "beta", 1.0), self.NEEDS.kind(REFERENCE) != "none"
        found: dict[str, Metric] = {}
        for name in names:
            found |= DIAGNOSTICS[name].measure(self.compared(features), beta, reference=referenced)
        return found

    def compared(self, features: Any) -> Pair:
        """The two responses that diagnostics compare."""
        raise NotImplementedError(f"{type(self).__name__} compares no two responses to one prompt")

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.base import Objective
        from jaxpo.objectives.families.features import Wanted, score

        shape = self.shape()
        want = Wanted(self.NEEDS, options.recorded, self.TOKENS, self.HIDDEN, options.use_weighting, options.scorers)

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> Any:
            scores = score(scorer, params, frozen, batch, want, rng)
            extra = self.encode_extra(scorer, params, frozen, batch, scores, rng)
            return shape.features(scores, batch, want, extra)

        def loss(features: Any, batch: Batch, carry: Any, counts: Counts) -> Out:
            out = self.evaluate(features, batch, carry, counts)
            return replace(out, metrics=out.metrics | self.diagnose(features, options.diagnostics))

        return Objective(
            name=self.INFO.name,
            counts=lambda batch: shape.counts(batch, self.NEEDS),
            encode=encode,
            loss=loss,
            after=self.after,
            init_carry=self.init_carry,
            needs=self.NEEDS,
            coupled=self.COUPLED,
        )


@dataclass(frozen=True)
class PairMethod(FeatureMethod):
    """A method on pairs: `loss` reads a `Pair`; counts are "pairs", "chosen_tokens", and "ROLEs" and "ROLE_tokens"."""

    def shape(self) -> Shape:
        from jaxpo.objectives.families.pairs import PAIR_SHAPE

        return PAIR_SHAPE

    def compared(self, features: Any) -> Pair:
        pair: Pair = features
        return pair

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        """Each pair's terms times its WPO weight, if any, over their denominators."""
        from jaxpo.objectives.families.pairs import reduce_terms, weighted

        return reduce_terms(weighted(features, terms), counts)


@dataclass(frozen=True)
class ListMethod(FeatureMethod):
    """A method on lists of scored responses: `loss` reads a `Ranked`; counts are "lists" and "pairs" (of labels)."""

    def shape(self) -> Shape:
        from jaxpo.objectives.families.lists import LIST_SHAPE

        return LIST_SHAPE

    def compared(self, features: Any) -> Pair:
        """The best- and the worst-labelled response of each list."""
        from jaxpo.objectives.families.lists import ends

        return ends(features)

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
