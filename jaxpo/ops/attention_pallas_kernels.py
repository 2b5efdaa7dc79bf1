"""The three kernels of fused attention: the output, the gradient of queries, the gradient of keys and values.

Each program holds one block in registers and walks over the blocks that it can reach (`jaxpo.ops.attention_reach`), so
no row of scores is ever in memory (Dao 2023, FlashAttention-2, arXiv 2307.08691). Scores are in units of log 2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30
LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is static about a call: which distances are seen, the width of a head before padding, and the position of
    the first query among the keys.
    """

    causal: bool
    window: int | None
    width: int
    before: int = 0

    @property
    def scale(self) -> float:
        """Of a score, in units of log 2."""
        return self.width**-0.5 * LOG2_E

    def seen(self, q_ids: Int[Array, "m"], k_ids: Int[Array, "n"], q_first: Any, k_first: Any) -> Bool[Array, "m n"]:
        """Which keys of a block the queries of another see, by their ids and by their distance."""
        seen = q_ids[:, None] == k_ids[None, :]
        q_first += self.before
        distance = (q_first + jnp.arange(q_ids.shape[0]))[:, None] - (k_first + jnp.arange(k_ids.shape[0]))[None, :]
        if self.causal:
            seen &= distance >= 0
        if self.window is not None:
            seen &= (distance < self.window) & (distance > -self.window)
        return seen


def dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "m n"]:
    """A product in float32; float32 factors are not rounded to TensorFloat-32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def forward(
    first: Any, end: Any, q_ids: Any, k_ids: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *, rule: Rule, keys: int
) -> None:
    """`out = softmax(q k^T) v` of one block of queries and one head, and the log2 of the sum of its weights."""
    queries, width = q.shape
    at = pl.program_id(0) * queries
    block, ids = q[...], q_ids[...]

    def body(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, top, total = carry
        here = pl.ds(j * keys, keys)
        seen = rule.seen(ids, k_ids[here], at, j * keys)
        scores = jnp.where(seen, dot(block, k[here, :], (1, 1)) * rule.scale, HIDDEN)
        new = jnp.maximum(top, jnp.max(scores, axis=1))
        weights = jnp.where(seen, jnp.exp2(scores - new[:, None]), 0.0)
        kept = jnp.exp2(top - new)
        value = v[here, :]
        out = out * kept[:, None] + dot(weights.astype(value.dtype), value, (1, 0))
        return out, new, total * kept + jnp.sum(weights, axis=1)

    start = (
        jnp.zeros((queries, width), jnp.float32),
        jnp.full((queries,), HIDDEN, jnp.float32),
        jnp.zeros((queries,), jnp.float32),
    )
    total_out, top, total = lax.fori_loop(first[...], end[...], body, start)
    total = jnp.where(total > 0, total, 1.0)
    out[...] = (total_out / total[:, None]).astype(out.dtype)
    lse[...] = top + jnp.log2(total)


def backward_queries(
    first: Any,
    end: Any,
    q_ids: Any,
    k_ids: Any,
    q: Any,
    k: Any,
    v: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    dq: Any,
    *,
    rule: Rule,
    keys: int,
) -> None:
    """`dq = (p * (d_out v^T - delta)) k / sqrt(h)` of one block of queries and one head."""
    at = pl.program_id(0) * q.shape[0]
    block, ids, d_block, top, mean = q[...], q_ids[...], d_out[...], lse[...], delta[...]

    def body(j: Array, total: Array) -> Array:
        here = pl.ds(j * keys, keys)
        key = k[here, :]
        seen = rule.seen(ids, k_ids[here], at, j * keys)
        weights = _weights(dot(block, key, (1, 1)), seen, top, rule)
        d_scores = weights * (dot(d_block, v[here, :], (1, 1)) - mean[:, None])
        return total + dot(d_scores.astype(key.dtype), key, (1, 0))

    total = lax.fori_loop(first[...], end[...], body, jnp.zeros(q.shape, jnp.float32))
    dq[...] = (total * rule.width**-0.5).astype(dq.dtype)


def backward_keys(
    first: Any,
    end: Any,
    q_ids: Any,
    k_ids: Any,
    q: Any,
    k: Any,
    v: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    dk: Any,
    dv: Any,
    *,
    rule: Rule,
    queries: int,
) -> None:
    """`dv = p^T d_out` and `dk = (p * (d_out v^T - delta))^T q / sqrt(h)` of one block of keys and one key head.

    The heads that share the key head are added up here, one after the other.
    """
    at = pl.program_id(0) * k.shape[0]
    key, value, ids = k[...], v[...], k_ids[...]
    begin, stop = first[...], end[...]

    def member(m: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
        def body(i: Array, totals: tuple[Array, Array]) -> tuple[Array, Array]:
            dk, dv = totals
            here = pl.ds(i * queries, queries)
            block, d_block = q[here, m, :], d_out[here, m, :]
            seen = rule.seen(q_ids[here], ids, i * queries, at)
            weights = _weights(dot(block, key, (1, 1)), seen, lse[m, here], rule)
            dv += dot(weights.astype(d_block.dtype), d_block, (0, 0))
            d_scores = weights * (dot(d_block, value, (1, 1)) - delta[m, here][:, None])
            return dk + dot(d_scores.astype(block.dtype), block, (0, 0)), dv

        return lax.fori_loop(begin, stop, body, totals)

    zeros = jnp.zeros(k.shape, jnp.float32)
    total_k, total_v = lax.fori_loop(0, q.shape[1], member, (zeros, zeros))
    dk[...] = (total_k * rule.width**-0.5).astype(dk.dtype)
    dv[...] = total_v.astype(dv.dtype)


def _weights(scores: Array, seen: Array, lse: Array, rule: Rule) -> Float[Array, "m n"]:
    """The softmax again, from the logarithm of its sum; 0 where nothing is seen."""
    return jnp.where(seen, jnp.exp2(scores * rule.scale - lse[:, None]), 0.0)
