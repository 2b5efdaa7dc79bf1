"""Short depthwise convolution by pad-and-shift.

XLA's own depthwise convolution is 40 to 120 times slower on CPU, and knows nothing of segments.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def short_conv(
    u: Float[Array, "R S D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    *,
    causal: bool = True,
) -> Float[Array, "R S D"]:
    """`z[t] = sum_j kernel[j] * u[t - (k-1) + j]`, cross-correlation, cut at segment borders (zeros beyond them).

    LFM2's short convolution (arXiv 2511.23404). Summed in float32, returned in `u.dtype`.

    Args:
      u: input `[R, S, D]`.
      kernel: taps, oldest first, `[k, D]`.
      segment_ids: `[R, S]`; a tap that lies in another segment counts as zero.
      causal: taps end at t; otherwise they are centred, `u[t - k//2 + j]`, as in bidirectional encoders.
    """
    taps = kernel.shape[0]
    wide = u.astype(jnp.float32)
    ahead = 0 if causal else taps - 1 - taps // 2
    total = jnp.zeros(wide.shape, jnp.float32)
    for j in range(taps):
        back = taps - 1 - ahead - j
        same = _shift(segment_ids, back) == segment_ids
        total += kernel[j].astype(jnp.float32) * jnp.where(same[..., None], _shift(wide, back), 0.0)
    return total.astype(u.dtype)


def short_conv_step(
    u: Float[Array, "B s D"],
    kernel: Float[Array, "k D"],
    columns: Float[Array, "B k-1 D"],
    count: Int[Array, "B"],
) -> tuple[Float[Array, "B s D"], Float[Array, "B k-1 D"]]:
    """Continue `short_conv` after the columns that came before.

    Args:
      u: the next columns, of which the first `count[b]` of row b are real.
      kernel: `[k, D]`.
      columns: the k-1 columns before `u`, oldest first; zeros where the sequence had not begun.
      count: `[B]`, 0..s.

    Returns:
      The output at every column of `u` (meaningless beyond `count`), and the last k-1 real columns.
    """
    taps, steps = kernel.shape[0], u.shape[1]
    joined = jnp.concatenate([columns.astype(u.dtype), u], axis=1)
    wide = joined.astype(jnp.float32)
    total = sum(kernel[j].astype(jnp.float32) * wide[:, j : j + steps] for j in range(taps))
    keep = count[:, None] + jnp.arange(taps - 1)
    return jnp.asarray(total).astype(u.dtype), jnp.take_along_axis(joined, keep[..., None], axis=1)


def _shift(x: Array, back: int) -> Array:
    """`y[:, t] = x[:, t - back]`, zero outside."""
    pad = [(0, 0)] * x.ndim
    if back > 0:
        pad[1] = (back, 0)
        return jnp.pad(x, pad)[:, : x.shape[1]]
    if back < 0:
        pad[1] = (0, -back)
        return jnp.pad(x, pad)[:, -back:]
    return x
