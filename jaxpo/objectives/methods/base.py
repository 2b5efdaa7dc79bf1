"""What every method of the catalogue is: a frozen dataclass of hyper-parameters that builds an objective.

No jax here or in the method modules' top level: the command line lists and explains methods without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import RECORDABLE, Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.diagnostics import DIAGNOSTICS
from jaxpo.objectives.methods.options import Ids, Options, why_not_recorded
from jaxpo.objectives.methods.ranges import field_problems

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Counts, Metric, Objective, Out
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms

PAIRS = Needs(roles=("chosen", "rejected"))
PAIRS_AND_REFERENCE = Needs(roles=("chosen", "rejected"), networks=(("reference", "logps"),))

Encode = Callable[..., tuple[Any, dict[str, Any]]]
"""`Objective.encode`: `(params, frozen, batch, rng) -> (features, aux)`."""


@dataclass(frozen=True)
class Info:
    """A method's entry in the catalogue.

    Attributes:
      name: on the command line and in `METHODS`.
      family: shape of its data.
      paper: title.
      arxiv: identifier, or "" for what predates arXiv.
      certainty: where the formula comes from and what is open.
      aliases: other names that mean exactly this, TRL's `loss_type` among them.
      function: import path of the pure loss; by default that of the method's name.
    """

    name: str
    family: Literal[
        "pairs",
        "pairs, coupled",
        "unpaired",
        "lists",
        "reward model",
        "sft",
        "masked language model",
        "distillation",
        "rollouts",
        "retrieval",
        "images",
        "pairs of images",
    ]
    paper: str
    arxiv: str
    certainty: str
    aliases: tuple[str, ...] = ()
    function: str = ""

    def __post_init__(self) -> None:
        if not self.function:
            object.__setattr__(self, "function", f"jaxpo.losses.{self.name}")


def number(
    default: float | None,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    kw_only: bool = False,
) -> Any:
    """A numeric field with its range; one whose default is None may be left so."""
    limits = {"above": above, "at_least": at_least, "at_most": at_most}
    return field(default=default, kw_only=kw_only, metadata=limits)


@dataclass(frozen=True)
class Method(ABC):
    """Base of the methods' dataclasses.

    Attributes:
      COMPARES: an example is two or more responses to one prompt, which diagnostics can compare.
    """

    INFO: ClassVar[Info]
    NEEDS: ClassVar[Needs]
    COMPARES: ClassVar[bool] = False
    NAMED: ClassVar[Mapping[str, str]] = {}
    """Column -> the field that has the names of what the column holds."""
    PARTS_OF: ClassVar[Mapping[str, str]] = {}
    """Head -> the field that names its parts (users, aspects): of a model of others the head is not taken over."""

    @property
    def weighs_pairs(self) -> bool:
        """Whether the loss is a term per pair, which WPO can multiply."""
        return False

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
        groups: tuple[str, ...] = (),
        scorers: Mapping[str, Scorer] | None = None,
        max_completion_length: int = 0,
        query_length: int = 0,
        ids: Ids | None = None,
    ) -> Objective:
        """The objective of this method.

        Args:
          scorer: how the networks are run.
          recorded, use_weighting, diagnostics, groups, scorers, max_completion_length, query_length, ids: see
            `Options`.

        Raises:
          ConfigError: a hyper-parameter out of range, or an option that this method cannot have.
        """
        options = Options(
            frozenset(recorded),
            use_weighting,
            tuple(diagnostics),
            tuple(groups),
            scorers or {},
            max_completion_length,
            query_length,
            ids,
        )
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
        if options.diagnostics and not self.COMPARES:
            found.append(
                f"{name}: diagnostics ({', '.join(options.diagnostics)}) compare two responses to one prompt, which "
                "this method's rows are not; leave them empty."
            )
        unknown = [d for d in options.diagnostics if d not in DIAGNOSTICS]
        if unknown:
            found.append(f"{name}: unknown diagnostics {', '.join(unknown)}; there are: {', '.join(DIAGNOSTICS)}.")
        if options.use_weighting and not self.weighs_pairs:
            found.append(
                f"{name}: use_weighting (WPO) multiplies the loss of each pair, which this method does not have; "
                "set use_weighting to False."
            )
        return found

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """Parameter tables of the groups in `NEEDS.extra`."""
        from jaxpo.models.heads import EXTRA_TABLES

        return {name: EXTRA_TABLES[name](config) for name in self.NEEDS.extra}

    def problems(self) -> list[str]:
        """Fields out of range and choices that do not exist, one sentence each; empty if there are none."""
        return field_problems(self)

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Problems of the data set's per-example columns (name -> numpy array); empty if there are none."""
        return []

    def check_names(self, names: Mapping[str, tuple[str, ...]]) -> list[str]:
        """Problems of the names in the data set's columns, `Column.names`; empty if there are none."""
        return []

    def first_values(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """First values of parameters of `extra_tables` that come from the training rows, as a part of their tree.

        Args:
          columns: as of `check_columns`, those of NEEDS, of the whole training set.
        """
        return {}

    def widths(self) -> dict[str, tuple[int, ...]]:
        """Shapes beyond the example axis of the columns whose shape this method decides."""
        return {}


@dataclass(frozen=True)
class ArrayMethod(Method):
    """A function of small arrays that the family's `encoder` makes of the networks.

    Subclasses give hyper-parameters, `INFO`, `NEEDS`, and `loss` or `evaluate`.

    Attributes:
      COUPLED: the loss mixes examples; it then sees all examples of a step at once.
      METRICS: names of the metrics beyond the family's common ones.
      SAME_SHAPE: names of the networks that must have the trained one's architecture.
    """

    COUPLED: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = ()
    SAME_SHAPE: ClassVar[tuple[str, ...]] = ()

    def loss(self, features: Any) -> Terms:
        """Unreduced loss `[N]`, or a mapping from the name of a count to the term it divides."""
        raise NotImplementedError(f"{type(self).__name__} gives neither `loss` nor, with carried state, `evaluate`")

    @abstractmethod
    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        """`Objective.encode` of this method."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Array]:
        """`Objective.counts` of this method."""

    @abstractmethod
    def common_metrics(self, features: Any) -> dict[str, Metric]:
        """TRL's common metrics of the family."""

    def metrics(self, features: Any) -> dict[str, Metric]:
        """The metrics named in METRICS."""
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
        """The common metrics of the family, and the method's own."""
        return self.common_metrics(features) | self.metrics(features)

    def diagnose(self, features: Any, names: tuple[str, ...]) -> dict[str, Metric]:
        """The metrics of the diagnostics that the stage switched on; there are some where `COMPARES`."""
        return {}

    def right(self, features: Any) -> tuple[Array, Array] | None:
        """Where the rewards judge as the data do, and what can be judged, both `[N, ...]`; None: it has none."""
        return None

    def of_groups(self, features: Any, names: tuple[str, ...]) -> dict[str, Metric]:
        """The accuracy of each group, where rows have one and this method an accuracy."""
        found = self.right(features) if names and "group" in features.columns else None
        if found is None:
            return {}
        from jaxpo.objectives.families.groups import accuracies

        return accuracies(*found, features.columns["group"], names)

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.base import Objective

        def loss(features: Any, batch: Batch, carry: Any, counts: Counts) -> Out:
            out = self.evaluate(features, batch, carry, counts)
            more = self.diagnose(features, options.diagnostics) | self.of_groups(features, options.groups)
            return replace(out, metrics=out.metrics | more)

        return Objective(
            name=self.INFO.name,
            counts=self.counts,
            encode=self.encoder(scorer, options),
            loss=loss,
            after=self.after,
            init_carry=self.init_carry,
            needs=self.NEEDS,
            coupled=self.COUPLED,
        )
