"""Retrieval: the vectors of queries and documents, gathered by role, and the scores that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.packing.batch import Batch, take
from jaxpo.data.tokens.per_token import KEY, SCORED
from jaxpo.models.heads import unit
from jaxpo.models.retrieval import PROJECTION, VectorHead, pool, project
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.ops.maxsim import Masked, maxsim, maxsim_all
from jaxpo.ops.segments import segment_bounds

DOCUMENT = "document"


@struct.dataclass
class Vectors:
    """The features of a retriever; of one with a vector for each text Q and T are 1.

    Attributes:
      queries: `[N, Q, E]`.
      asks: `[N, Q]` rows of a query that are compared.
      documents: `[N, K, T, E]`.
      kept: `[N, K, T]` rows of a document that are compared.
      listed: `[N, K]` where there is a document.
      present: `[N]` where there is a query with a document.
      columns: the batch's per-example columns: "scores" `[N, K]` of a teacher, "document" `[N, K]`, equal for equal
        texts, -1 where there is none.
    """

    queries: Float[Array, "N Q E"]
    asks: Bool[Array, "N Q"]
    documents: Float[Array, "N K T E"]
    kept: Bool[Array, "N K T"]
    listed: Bool[Array, "N K"]
    present: Bool[Array, "N"]
    columns: dict[str, Array]

    def cut(self, width: int) -> Vectors:
        """The first `width` numbers of every vector, of length 1 again (Matryoshka)."""
        queries, documents = unit(self.queries[..., :width]), unit(self.documents[..., :width])
        return self.replace(queries=queries, documents=documents)  # type: ignore[attr-defined]


def vectors_of(params: Any, hidden: Float[Array, "R S D"], batch: Batch, head: VectorHead, query_rows: int) -> Vectors:
    """Gather the two roles.

    Args:
      query_rows: Q, at most so many positions of a query are read; 0 = as many as the longest segment has.
    """
    listed = (batch.roles["candidate"] >= 0) & batch.present[:, None]
    present = batch.present & (batch.roles["query"] >= 0) & jnp.any(listed, axis=1)
    kinds = {"query": query_rows or batch.max_segment, "candidate": batch.max_segment}
    read: Callable[..., tuple[Array, Array]] = _tokens if head.pooling == "tokens" else _pooled
    (queries, asks), (documents, kept) = (read(params, hidden, batch, head, role, n) for role, n in kinds.items())
    return Vectors(queries, asks, documents, kept, listed, present, dict(batch.per_example))


def _tokens(params: Any, hidden: Array, batch: Batch, head: VectorHead, role: str, rows: int) -> tuple[Array, Array]:
    """A vector of each position, `[..., T, E]`, and which of them are compared."""
    found = project(params.get(PROJECTION, {}), hidden, head)
    return rows_at(found, batch.roles[role], batch, rows), _flag(SCORED, role, batch, rows)


def _pooled(params: Any, hidden: Array, batch: Batch, head: VectorHead, role: str, rows: int) -> tuple[Array, Array]:
    """One vector of each text, `[..., 1, E]`."""
    states = rows_at(hidden, batch.roles[role], batch, rows)
    key = _flag(KEY, role, batch, rows)
    found = project(params.get(PROJECTION, {}), pool(states, key, head.pooling), head)
    return found[..., None, :], jnp.any(key, axis=-1, keepdims=True)


def _flag(name: str, role: str, batch: Batch, rows: int) -> Bool[Array, "N ... T"]:
    column = jnp.where(batch.segment_ids > 0, batch.per_token[name], 0)
    return rows_at(column[..., None], batch.roles[role], batch, rows)[..., 0] > 0


def rows_at(x: Array, role: Int[Array, "N ..."], batch: Batch, length: int) -> Array:
    """The first positions of each text, `[R, S, E] -> [N, ..., length, E]`, 0 beyond its end.

    Each is read where it lies: nothing of the size of all slots times all positions exists.
    """
    start, size = segment_bounds(batch.segment_ids, batch.slots)
    first, count = (take(y, role, batch) for y in (start, size))
    offsets, columns = jnp.arange(length), x.shape[1]
    row = jnp.maximum(role, 0) // batch.slots
    place = (row * columns + first)[..., None] + jnp.minimum(offsets, jnp.maximum(count - 1, 0)[..., None])
    values = x.reshape(batch.blocks, -1, x.shape[2])
    index = place.reshape(batch.blocks, -1)
    found = jnp.take_along_axis(values, index[..., None], axis=1).reshape(*place.shape, x.shape[2])
    return jnp.where((offsets < count[..., None])[..., None], found, jnp.zeros((), x.dtype))


def own_scores(x: Vectors, masked: Masked = "-inf") -> Float[Array, "N K"]:
    """Of every query and each of its own documents; 0 where there is none."""
    found = maxsim(x.queries[:, None], x.documents, x.asks[:, None], x.kept, masked=masked)
    return jnp.where(x.listed & x.present[:, None], found, 0.0)


def batch_scores(
    x: Vectors, masked: Masked = "-inf", margin: float | None = None
) -> tuple[Float[Array, "N M"], Bool[Array, "N M"], Int[Array, "N"]]:
    """Of every query and all documents of the step, M = N K; which of them count; and the place of the positive.

    A document whose text is the positive's own does not count as another one. The positive is the first of a list, or
    the one that the teacher likes best.

    Args:
      margin: a query's own documents with a teacher's score above the positive's less this do not count either; None =
        they do.
    """
    n, k = x.listed.shape
    flat = x.documents.reshape(n * k, *x.documents.shape[2:])
    found = maxsim_all(x.queries, flat, x.asks, x.kept.reshape(n * k, -1), masked=masked)
    best = best_of(x)
    target = jnp.arange(n) * k + best
    counts = (x.listed & x.present[:, None]).reshape(1, -1) & x.present[:, None]
    if DOCUMENT in x.columns:
        own = jnp.take_along_axis(x.columns[DOCUMENT], best[:, None], axis=1)
        same = own == x.columns[DOCUMENT].reshape(1, -1)
        counts &= ~same | (jnp.arange(n * k) == target[:, None])
    if margin is not None:
        counts &= ~jnp.any(_near(x, best, margin)[:, :, None] & _own(n, k), axis=1)
    return jnp.where(counts, found, 0.0), counts, target


def _near(x: Vectors, best: Int[Array, "N"], margin: float) -> Bool[Array, "N K"]:
    """Documents of a list, the positive not among them, that the teacher likes nearly as well."""
    scores = x.columns["scores"]
    right = jnp.take_along_axis(scores, best[:, None], axis=1)
    return x.listed & (scores > right - margin) & (jnp.arange(scores.shape[1]) != best[:, None])


def _own(n: int, k: int) -> Bool[Array, "N K M"]:
    """Where the k-th document of query n stands among all of a step."""
    return (jnp.arange(n)[:, None] * k + jnp.arange(k))[:, :, None] == jnp.arange(n * k)


def best_of(x: Vectors) -> Int[Array, "N"]:
    """Place of each query's positive document in its list."""
    if "scores" not in x.columns:
        return jnp.zeros(x.present.shape, jnp.int32)
    return jnp.argmax(jnp.where(x.listed, x.columns["scores"], -jnp.inf), axis=1)


def retrieval_counts(batch: Batch) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: queries with a document."""
    listed = jnp.any(batch.roles["candidate"] >= 0, axis=1)
    here = batch.present & (batch.roles["query"] >= 0) & listed
    return {"queries": jnp.sum(here.astype(jnp.float32))}


def ranking_metrics(scores: Float[Array, "N M"], where: Bool[Array, "N M"], target: Int[Array, "N"]) -> dict[str, Mean]:
    """How often the positive stands above all others, and by how much; a tie is none."""
    others = where & (jnp.arange(scores.shape[1]) != target[:, None])
    right = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
    best = jnp.max(jnp.where(others, scores, -jnp.inf), axis=1)
    here = jnp.take_along_axis(where, target[:, None], axis=1)[:, 0] & jnp.any(others, axis=1)
    margin = jnp.where(here, right - jnp.where(here, best, 0.0), 0.0)
    return {
        "accuracy": masked_mean((margin > 0).astype(jnp.float32), here),
        "margin": masked_mean(margin, here),
    }
