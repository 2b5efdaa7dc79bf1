"""Methods that train a retriever: scores of queries and documents from their vectors, and a loss on those.

No jax here at the top level, as in `jaxpo.objectives.methods.base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import ArrayMethod, Encode
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.retrieval import VectorHead
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Counts, Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.retrieval import Vectors

QUERY_AND_DOCUMENTS = Needs(roles=("query", "candidate"), per_token=("key", "scored"), extra=("projection",))


@dataclass(frozen=True)
class RetrievalMethod(ArrayMethod):
    """A retriever: `loss_at` reads a `Vectors` of one width; the count is "queries".

    Attributes:
      pooling: "tokens", late interaction: a vector of each token, and of each row of the query its best match; or one
        vector for each text: the mean over its tokens, "cls" (that of BOS) or "last".
      dimensions: of the vectors, by a linear layer without bias; None = the hidden states themselves.
      masked: what a row of a document that does not count is worth: "-inf" never wins, "zero" is pylate's.
      widths_trained: also train the first so many numbers of the vectors to be vectors of their own (Matryoshka,
        arXiv 2205.13147); the loss is the mean over all widths.
    """

    pooling: Literal["tokens", "mean", "cls", "last"] = field(default="tokens", kw_only=True)
    dimensions: int | None = field(default=128, kw_only=True)
    masked: Literal["-inf", "zero"] = field(default="-inf", kw_only=True)
    widths_trained: tuple[int, ...] = field(default=(), kw_only=True)

    NEEDS: ClassVar[Needs] = QUERY_AND_DOCUMENTS
    METRICS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.dimensions is None:
            object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, extra=()))

    @property
    def head(self) -> VectorHead:
        """How the vectors are made of the hidden states."""
        from jaxpo.models.retrieval import VectorHead

        return VectorHead(self.pooling, () if self.dimensions is None else ("identity",))

    def problems(self) -> list[str]:
        """Also widths that are none of the vectors'."""
        found, most = super().problems(), self.dimensions
        if most is not None and (not isinstance(most, int) or most < 1):
            found.append(f"{self.INFO.name}: dimensions is {most!r} but must be a positive number, or None.")
            return found
        wrong = [w for w in self.widths_trained if not isinstance(w, int) or w < 1 or (most is not None and w >= most)]
        if wrong:
            below = "" if most is None else f" and below {most}, the dimensions"
            found.append(f"{self.INFO.name}: widths_trained has {wrong[0]!r} but each must be at least 1{below}.")
        return found

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        from jaxpo.models.retrieval import PROJECTION, projection_table

        return {} if self.dimensions is None else {PROJECTION: projection_table(config, self.dimensions)}

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        from jaxpo.objectives.families.retrieval import vectors_of

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Vectors, dict[str, Any]]:
            hidden, aux = scorer.run(params["model"], batch, rng)
            return vectors_of(params, hidden, batch, self.head, options.query_length), aux

        return encode

    def counts(self, batch: Batch) -> dict[str, Array]:
        from jaxpo.objectives.families.retrieval import retrieval_counts

        return retrieval_counts(batch)

    def loss_at(self, x: Vectors) -> Array:
        """Unreduced loss `[N]`, 0 where there is no query."""
        raise NotImplementedError(f"{type(self).__name__} gives no `loss_at`")

    def loss(self, features: Vectors) -> Array:
        """The mean over the widths that are trained."""
        parts = [features, *(features.cut(width) for width in self.widths_trained)]
        return sum((self.loss_at(part) for part in parts[1:]), start=self.loss_at(parts[0])) / len(parts)

    def reduce(self, features: Any, terms: Terms, counts: Counts) -> Array:
        return super().reduce(features, terms if isinstance(terms, Mapping) else {"queries": terms}, counts)

    def common_metrics(self, features: Vectors) -> dict[str, Metric]:
        """Of every query and its own documents; where there is one alone, of all documents of the step."""
        from jaxpo.objectives.families.retrieval import batch_scores, best_of, own_scores, ranking_metrics

        if self.COUPLED:
            return {**ranking_metrics(*batch_scores(features, self.masked))}
        where = features.listed & features.present[:, None]
        return {**ranking_metrics(own_scores(features, self.masked), where, best_of(features))}
