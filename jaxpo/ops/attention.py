"""Grouped-query attention over packed rows.

`implementation=None` takes the best backend of the platform; a named one is used or refused, never replaced.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.errors import BackendError
from jaxpo.ops.attention_xla import attend, xla_attention

_BACKENDS: dict[str, Callable[..., Array]] = {"xla": xla_attention}


def available() -> tuple[str, ...]:
    """Names that `implementation` accepts here, best first."""
    return tuple(_BACKENDS)


def attention(
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    *,
    key_ids: Int[Array, "R S"] | None = None,
    causal: bool = True,
    max_segment: int | None = None,
    window: int | None = None,
    implementation: str | None = None,
) -> Float[Array, "R S H h"]:
    """`softmax(q k^T / sqrt(h) + mask) v`, within segments (grouped queries: Ainslie et al. 2023, arXiv 2305.13245).

    Key head g serves query heads `g H/G .. (g+1) H/G - 1`. Position s sees t when the key id of t is the non-zero
    segment id of s, `t <= s` if causal, and `|s - t| < window` if a window is given. Queries that see nothing, those of
    padding among them, return zeros. The softmax is float32.

    Args:
      q, k, v: `[R, S, H, h]`, `[R, S, G, h]`, `[R, S, G, h]`, H a multiple of G.
      segment_ids: `[R, S]`; 0 is padding; each segment is contiguous.
      key_ids: `[R, S]`, the segment that sees each position as a key; 0 = never a key (a pad that asks and is not
        asked). None = `segment_ids`.
      causal: whether later positions are hidden.
      max_segment: static bound on the length of every segment: bounds the keys that a query can reach, so that time and
        memory are linear in S, forward and backward. A longer segment would be cut to that reach.
      window: sliding window, in positions; None = all of the segment.
      implementation: a backend's name, or None.

    Raises:
      BackendError: the named backend is not available here.
      ValueError: a window below 1.
    """
    _check_window(window)
    name = available()[0] if implementation is None else implementation
    if name not in _BACKENDS:
        raise BackendError(
            f"attention implementation {name!r} is not available here; available: {', '.join(available())}. "
            "Leave it unset (None) to take the best one."
        )
    return _BACKENDS[name](q, k, v, segment_ids, key_ids=key_ids, causal=causal, max_segment=max_segment, window=window)


def _check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; a query sees at least itself: give 1 or more, or None for no window")


def cached_attention(
    q: Float[Array, "B s H h"],
    k: Float[Array, "B T G h"],
    v: Float[Array, "B T G h"],
    positions: Int[Array, "B s"],
    *,
    slots: Int[Array, "B T"] | None = None,
    window: int | None = None,
) -> Float[Array, "B s H h"]:
    """Attention of new queries over a cache: the query at p sees the slots that hold positions `0..p`.

    Args:
      q: `[B, s, H, h]`.
      k, v: cache `[B, T, G, h]`, in which the new keys are already written; later slots may hold anything finite.
      positions: `[B, s]`, the position of each query in its own row.
      slots: `[B, T]`, the position that each slot holds, negative for one that is no key; None: slot t holds
        position t.
      window: sliding window, in positions: the query at p sees `p - window + 1 .. p`.

    Raises:
      ValueError: a window below 1.
    """
    _check_window(window)
    batch, steps, heads, width = q.shape
    groups = k.shape[2]
    grouped = q.reshape(batch, steps, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    held = jnp.arange(k.shape[1]) if slots is None else slots[:, None, :]
    seen = (held >= 0) & (held <= positions[..., None])
    if window is not None:
        seen &= held > positions[..., None] - window
    out = attend(grouped, k.transpose(0, 2, 1, 3).astype(q.dtype), v.transpose(0, 2, 1, 3).astype(q.dtype), seen)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, steps, heads, width)
