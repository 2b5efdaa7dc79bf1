"""Grouped-query attention over packed rows.

`implementation=None` takes the best backend of the platform that can do what is asked; a named one is used or refused,
never replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxpo.ops import attention_refusals as refusals
from jaxpo.ops.attention_blocks import blocks_cached
from jaxpo.ops.attention_choice import Asked, capability
from jaxpo.ops.attention_mesh import on_mesh, over_positions
from jaxpo.ops.attention_xla import attend, xla_attention
from jaxpo.ops.backends import Backend, Choice, choose, names_on, sequence_devices
from jaxpo.ops.halo import position_axis


# Kernels are imported when they are taken: half a second that only an accelerator is worth.
def _splash(*arrays: Array, **options: Any) -> Array:
    from jaxpo.ops.attention_splash import splash_attention

    return splash_attention(*arrays, **options)


def _pallas(*arrays: Array, **options: Any) -> Array:
    from jaxpo.ops.attention_pallas import pallas_attention

    return pallas_attention(*arrays, **options)


def _cudnn(*arrays: Array, **options: Any) -> Array:
    from jaxpo.ops.attention_cudnn import cudnn_attention

    return cudnn_attention(*arrays, **options)


def _pallas_cached(*arrays: Any, **options: Any) -> Array:
    from jaxpo.ops.attention_decode import pallas_cached

    return pallas_cached(*arrays, **options)


BACKENDS = (
    Backend(
        "splash",
        ("tpu",),
        _splash,
        refusals.splash,
        "fused kernels of JAX, exact in interpret mode and compiled for v5e; not run on a TPU yet",
    ),
    Backend(
        "pallas",
        ("gpu",),
        _pallas,
        refusals.pallas,
        "fused kernels through Triton, exact in interpret mode and compiled for sm_80 and sm_90; not run on a GPU yet",
    ),
    Backend(
        "xla", ("cpu", "gpu", "tpu"), xla_attention, refusals.xla, "chunks of queries in plain XLA", divisible=True
    ),
    Backend(
        "cudnn",
        ("gpu",),
        _cudnn,
        refusals.cudnn,
        "cuDNN over packed rows; unverified: tested by its arguments alone",
        by_default=False,
    ),
)
"""The ways to compute `attention`, best first."""


def available() -> tuple[str, ...]:
    """Names that `implementation` accepts here, best first; those that are taken by name only come last."""
    return names_on(BACKENDS, jax.default_backend())


def chosen(
    implementation: str | None = None,
    *,
    platform: str | None = None,
    dtype: DTypeLike = "bfloat16",
    head_dim: int = 64,
    causal: bool = True,
    window: int | None = None,
    key_ids: bool = False,
    prefix: bool = False,
    sequence: int | None = None,
) -> Choice:
    """The backend that `attention` takes, and why.

    Args:
      implementation: a name, or None for the best.
      platform: "cpu", "gpu" or "tpu"; None = this machine's.
      dtype, head_dim, causal, window: of the call.
      key_ids, prefix: whether the call has some.
      sequence: devices over which positions are spread; None = those of the enclosing mesh.

    Raises:
      BackendError: the named one is not on this platform, or cannot do it; the message names the remedy.
    """
    return choose(
        "attention",
        BACKENDS,
        implementation,
        _asked(platform, dtype, head_dim, causal, window, key_ids, prefix, sequence),
    )


def chosen_cached(
    implementation: str | None = None,
    *,
    platform: str | None = None,
    dtype: DTypeLike = "bfloat16",
    head_dim: int = 64,
    window: int | None = None,
) -> Choice:
    """The backend that `cached_attention` takes, and why; see `chosen`."""
    asked = _asked(platform, dtype, head_dim, True, window, False, False, 1)
    return choose("cached_attention", CACHED_BACKENDS, implementation, asked)


def _asked(
    platform: str | None,
    dtype: DTypeLike,
    head_dim: int,
    causal: bool,
    window: int | None,
    key_ids: bool,
    prefix: bool,
    sequence: int | None,
) -> Asked:
    here = jax.default_backend()
    return Asked(
        platform or here,
        dtype,
        head_dim,
        causal,
        window,
        key_ids,
        prefix,
        sequence_devices() if sequence is None else sequence,
        capability() if platform in (None, here) else None,
    )


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
    prefix_ids: Int[Array, "R S"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "R S H h"]:
    """`softmax(q k^T / sqrt(h) + mask) v`, within segments (grouped queries: Ainslie et al. 2023, arXiv 2305.13245).

    Key head g serves query heads `g H/G .. (g+1) H/G - 1`. Position s sees t when the key id of t is the non-zero
    segment id of s, `t <= s` if causal, and `|s - t| < window` if a window is given. Queries that see nothing, those of
    padding among them, return zeros. The softmax is float32.

    Args:
      q, k, v: `[R, S, H, h]`, `[R, S, G, h]`, `[R, S, G, h]`, H a multiple of G.
      segment_ids: `[R, S]`; 0 is padding, others are positive; each segment is contiguous (backends differ on an id
        that comes back after another).
      key_ids: `[R, S]`, the segment that sees each position as a key; 0 = never a key (a pad that asks and is not
        asked). None = `segment_ids`.
      causal: whether later positions are hidden.
      max_segment: static bound on the length of every segment: bounds the keys that a query can reach, so that time and
        memory are linear in S, forward and backward. A longer segment would be cut to that reach.
      window: sliding window, in positions; None = all of the segment.
      prefix_ids: `[R, S]`, the segment that a position's own continues (`jaxpo.ops.prefix`), whose keys it sees as
        well; 0 = none. `max_segment` then bounds both and what lies between them.
      implementation: a backend's name (see `available` and `BACKENDS`), or None.

    Raises:
      BackendError: the named backend is not available here, or cannot do this; the message says why.
      ValueError: a window below 1.
    """
    _check_window(window)
    _, devices = position_axis(*q.shape[:2])
    choice = chosen(
        implementation,
        dtype=q.dtype,
        head_dim=q.shape[-1],
        causal=causal,
        window=window,
        key_ids=key_ids is not None,
        prefix=prefix_ids is not None,
        sequence=devices,
    )
    backend = _of(BACKENDS, choice)

    def attend_rows(
        q: Array, k: Array, v: Array, segment_ids: Array, key_ids: Array | None, most: int | None, **at: int
    ) -> Array:
        # Only backends that can do it are asked for segments that continue others.
        shared = {} if prefix_ids is None else {"prefix_ids": prefix_ids}
        return backend.compute(
            q, k, v, segment_ids, key_ids=key_ids, causal=causal, max_segment=most, window=window, **shared, **at
        )

    if devices == 1:
        return _on_devices(backend, functools.partial(attend_rows, most=max_segment))(q, k, v, segment_ids, key_ids)
    keys = segment_ids if key_ids is None else key_ids
    return over_positions(attend_rows, q, k, v, segment_ids, keys, causal=causal, most=max_segment, window=window)


def _of(backends: tuple[Backend[Asked], ...], choice: Choice) -> Backend[Asked]:
    return next(b for b in backends if b.name == choice.name)


def _on_devices(backend: Backend[Asked], attend: Callable[..., Array]) -> Callable[..., Array]:
    return attend if backend.divisible else functools.partial(on_mesh, attend)


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
    implementation: str | None = None,
) -> Float[Array, "B s H h"]:
    """Attention of new queries over a cache: the query at p sees the slots that hold positions `0..p`.

    Args:
      q: `[B, s, H, h]`.
      k, v: cache `[B, T, G, h]`, in which the new keys are already written; later slots may hold anything finite.
      positions: `[B, s]`, the position of each query in its own row; one at -1 sees nothing, and gives zeros.
      slots: `[B, T]`, the position that each slot holds, negative for one that is no key; None: slot t holds
        position t.
      window: sliding window, in positions: the query at p sees `p - window + 1 .. p`.
      implementation: a backend's name (see `CACHED_BACKENDS`), or None.

    Raises:
      BackendError: the named backend is not available here, or cannot do this; the message says why.
      ValueError: a window below 1.
    """
    _check_window(window)
    choice = chosen_cached(implementation, dtype=q.dtype, head_dim=q.shape[-1], window=window)
    backend = _of(CACHED_BACKENDS, choice)
    return _on_devices(backend, functools.partial(backend.compute, window=window))(q, k, v, positions, slots)


def _xla_cached(
    q: Float[Array, "B s H h"],
    k: Float[Array, "B T G h"],
    v: Float[Array, "B T G h"],
    positions: Int[Array, "B s"],
    slots: Int[Array, "B T"] | None,
    *,
    window: int | None,
) -> Float[Array, "B s H h"]:
    batch, steps, heads, width = q.shape
    groups = k.shape[2]
    grouped = q.reshape(batch, steps, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    held = jnp.arange(k.shape[1]) if slots is None else slots[:, None, :]
    seen = (held >= 0) & (held <= positions[..., None])
    if window is not None:
        seen &= held > positions[..., None] - window
    out = attend(grouped, k.transpose(0, 2, 1, 3).astype(q.dtype), v.transpose(0, 2, 1, 3).astype(q.dtype), seen)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, steps, heads, width)


CACHED_BACKENDS = (
    Backend("blocks", ("cpu",), blocks_cached, refusals.none, "the blocks of keys that each row has reached"),
    Backend(
        "xla", ("cpu", "gpu", "tpu"), _xla_cached, refusals.none, "one block of scores in plain XLA", divisible=True
    ),
    Backend(
        "pallas",
        ("gpu",),
        _pallas_cached,
        refusals.pallas_cached,
        "keys split over programs, through Triton; unverified: exact in interpret mode, not run on a GPU yet",
        by_default=False,
    ),
)
"""The ways to compute `cached_attention`, best first."""
