"""Self-supervised preference optimisation: a pair loss with the preference-degree task."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import FeatureMethod, PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores, Side
    from jaxpo.objectives.families.pairs import Pair, Terms

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class SPODegree(PairMethod):
    """A pair loss plus a head that tells from the policy's states how many key phrases a response has lost.

    Key phrases are taken away by leaving their positions out of the mean over one forward pass; running the network on
    the shortened text instead would cost K forward passes and is not offered.

    Attributes:
      base: name of the pair loss, any that needs no column, label or head of its own.
      beta: of the base loss.
      gamma: weight of the degree task (0.01 to 1).
      levels: K, from the intact response to one without any key phrase.
    """

    base: str = "dpo"
    beta: float = number(0.1, above=0)
    gamma: float = number(0.1, at_least=0)
    levels: int = number(4, at_least=2)

    INFO = Info(
        name="spo_degree",
        family="pairs",
        paper="Self-supervised Preference Optimization: Enhance Your Language Model with Preference Degree Awareness",
        arxiv="2409.17791",
        certainty="abstract and secondary notes; level grid, pooling, head and weight are reconstructed",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, per_token=("keyword",), extra=("degree",))
    HIDDEN = True
    METRICS = ("degree_loss", "degree_accuracy")

    def __post_init__(self) -> None:
        base = self._base()
        if base is not None:  # what this configuration needs, over the class's default
            object.__setattr__(self, "NEEDS", replace(base.NEEDS, per_token=("keyword",), extra=("degree",)))
            object.__setattr__(self, "TOKENS", base.TOKENS)
            object.__setattr__(self, "METRICS", (*base.METRICS, *type(self).METRICS))

    def _base(self) -> PairMethod | None:
        """The base method with this beta; None if it cannot carry the task."""
        from jaxpo.objectives.methods import resolve

        try:
            kind = resolve(self.base)
        except ConfigError:
            return None
        if not issubclass(kind, PairMethod) or issubclass(kind, SPODegree):
            return None
        base = kind(**({"beta": self.beta} if "beta" in {f.name for f in fields(kind)} else {}))
        plain = (base.NEEDS.columns, base.NEEDS.per_token, base.NEEDS.extra, base.NEEDS.optional_roles) == ((),) * 4
        plain = plain and set(base.NEEDS.roles) == set(SIDES) and not base.COUPLED and not base.HIDDEN
        own = kind.evaluate is not FeatureMethod.evaluate or kind.encode_extra is not FeatureMethod.encode_extra
        return base if plain and not own else None

    def problems(self) -> list[str]:
        """The base must exist and be a loss on plain pairs."""
        from jaxpo.objectives.methods import resolve

        found = super().problems()
        try:
            resolve(self.base)
        except ConfigError as error:
            return [*found, f"spo_degree: base: {error}"]
        base = self._base()
        if base is None:
            return [
                *found,
                f"spo_degree: base {self.base!r} cannot carry the task: it must be a loss on pairs without columns, "
                "marks, heads or state of its own, such as dpo, ipo or simpo.",
            ]
        return found + [p for p in base.problems() if p not in found]

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """The degree head."""
        from jaxpo.models.heads import degree_table

        return {"degree": degree_table(config, levels=self.levels)}

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """Per side `{side}_logits` `[N, K, K]` of the levels, and `{side}_phrases` `[N]`, the number of key phrases."""
        from jaxpo.objectives.families.degree import level_logits

        head = params["degree"]
        return level_logits(scores.hidden, batch, head["weight"], head["bias"], SIDES)

    def loss(self, pair: Pair) -> Terms:
        from collections.abc import Mapping

        from jaxpo.losses import spo_degree

        base = self._base()
        assert base is not None  # `problems` refuses the others
        terms = base.loss(pair)
        x = pair.extra
        logits, phrases = [x[f"{s}_logits"] for s in SIDES], [x[f"{s}_phrases"] > 0 for s in SIDES]
        add = lambda term: spo_degree(term, *logits, *phrases, gamma=self.gamma, where=pair.present)  # noqa: E731
        if isinstance(terms, Mapping):
            return {**terms, "pairs": add(terms.get("pairs", 0.0 * pair.chosen.logps))}
        return add(terms)

    def reward(self, side: Side) -> Array:
        """The base loss's."""
        base = self._base()
        return super().reward(side) if base is None else base.reward(side)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`degree_loss` and `degree_accuracy`: per response with a key phrase, of telling its K levels apart."""
        import jax.numpy as jnp

        from jaxpo.losses import degree_loss
        from jaxpo.objectives.base import masked_mean

        x, base = pair.extra, self._base()
        logits = jnp.concatenate([x[f"{s}_logits"] for s in SIDES])
        has = jnp.concatenate([pair.present & (x[f"{s}_phrases"] > 0) for s in SIDES])
        right = jnp.mean(jnp.argmax(logits, axis=-1) == jnp.arange(self.levels), axis=-1)
        own: dict[str, Metric] = {
            "degree_loss": masked_mean(degree_loss(logits, where=has), has),
            "degree_accuracy": masked_mean(right, has),
        }
        return (base.metrics(pair) if base is not None else {}) | own
