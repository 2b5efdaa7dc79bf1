"""The gated short depthwise convolution. The gates are part of it because it is bound by memory.

`implementation=None` takes the best backend of the platform that can do what is asked; a named one is used or refused,
never replaced.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxpo.errors import ConfigError
from jaxpo.ops.backends import Backend, Choice, choose, names_on
from jaxpo.ops.conv_refusals import Asked, none, pallas
from jaxpo.ops.conv_xla import distances, xla_short_conv
from jaxpo.ops.halo import Axis, from_left, from_right, position_axis
from jaxpo.sharding import axis_size, current_rules, fitting_spec


# Imported when it is taken: half a second that only an accelerator is worth.
def _pallas(gates: Array, kernel: Array, segment_ids: Array, causal: bool) -> Array:
    from jaxpo.ops.conv_pallas import pallas_short_conv

    return pallas_short_conv(gates, kernel, segment_ids, tuple(distances(kernel.shape[0], causal)))


BACKENDS = (
    Backend(
        "pallas",
        ("tpu",),
        _pallas,
        pallas,
        "one pass over memory each way, exact in interpret mode and compiled for v5e; not run on a TPU yet",
    ),
    Backend("xla", ("cpu", "gpu", "tpu"), xla_short_conv, none, "plain XLA, which fuses it", divisible=True),
)
"""The ways to compute `gated_short_conv`, best first."""


def available() -> tuple[str, ...]:
    """Names that `implementation` accepts here, best first."""
    return names_on(BACKENDS, jax.default_backend())


def chosen(
    implementation: str | None = None,
    *,
    platform: str | None = None,
    dtype: DTypeLike = "bfloat16",
    channels: int = 1024,
    taps: int = 3,
) -> Choice:
    """The backend that `gated_short_conv` takes, and why.

    Args:
      implementation: a name, or None for the best.
      platform: "cpu", "gpu" or "tpu"; None = this machine's.
      dtype: of the gates.
      channels: D of the whole model; the enclosing mesh divides them.
      taps: k.

    Raises:
      BackendError: the named one is not on this platform, or cannot do it; the message names the remedy.
    """
    asked = Asked(platform or jax.default_backend(), dtype, channels // _channel_devices(channels), taps)
    return choose("gated_short_conv", BACKENDS, implementation, asked)


def gated_short_conv(
    gates: Float[Array, "R S 3 D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    causal: bool = True,
    *,
    implementation: str | None = None,
) -> Float[Array, "R S D"]:
    """`y = c * z` with `z[t] = sum_j kernel[j] * u[t - (k-1) + j]` and `u = b * x`, cut at segment borders.

    LFM2's short convolution (arXiv 2511.23404), a cross-correlation. Summed in float32, returned in `gates.dtype`.
    Differentiable in reverse mode, any number of times.

    Args:
      gates: `b`, `c` and `x`, in this order, `[R, S, 3, D]`.
      kernel: taps, oldest first, `[k, D]`.
      segment_ids: `[R, S]`; a tap that lies in another segment, or beyond the row, counts as zero.
      causal: taps end at t; otherwise they are centred, `u[t - k//2 + j]`, as in bidirectional encoders.
      implementation: a backend's name (see `available` and `BACKENDS`), or None.

    Raises:
      BackendError: the named backend is not available here, or cannot do this; the message says why.
    """
    taps, channels = kernel.shape
    choice = chosen(implementation, dtype=gates.dtype, channels=channels, taps=taps)
    backend = next(b for b in BACKENDS if b.name == choice.name)

    def convolve(gates: Array, kernel: Array, segment_ids: Array) -> Array:
        return backend.compute(gates, kernel, segment_ids, causal)

    _, devices = position_axis(*gates.shape[:2])
    if devices == 1 and backend.divisible:
        return convolve(gates, kernel, segment_ids)
    return on_mesh(convolve, tuple(distances(taps, causal)))(gates, kernel, segment_ids)


Convolve = Callable[[Array, Array, Array], Array]


def on_mesh(convolve: Convolve, back: tuple[int, ...]) -> Convolve:
    """`convolve` on each device's own rows, positions and channels, because the compiler cannot divide a kernel.

    Rows are divided as the rule "batch" says, positions as "sequence", channels as "conv_act"; a dimension that is not
    divided is computed whole on every device.

    Args:
      back: how far back each tap looks; negative: ahead.
    """

    def divided(gates: Array, kernel: Array, segment_ids: Array) -> Array:
        active = current_rules()
        if active is None or active[0].size == 1:
            return convolve(gates, kernel, segment_ids)
        size = (*gates.shape[:2], gates.shape[3])
        rows, columns, channels = fitting_spec(size, ("batch", "sequence", "conv_act"))
        devices = axis_size(active[0], columns)

        def local(gates: Array, kernel: Array, segment_ids: Array) -> Array:
            y = convolve(gates, kernel, segment_ids)
            return y if devices == 1 else _with_neighbours(y, gates, kernel, segment_ids, back, columns, devices)

        return jax.shard_map(
            local,
            mesh=active[0],
            in_specs=(
                PartitionSpec(rows, columns, None, channels),
                PartitionSpec(None, channels),
                PartitionSpec(rows, columns),
            ),
            out_specs=PartitionSpec(rows, columns, channels),
            # A kernel does not say over which axes its results vary.
            check_vma=False,
        )(gates, kernel, segment_ids)

    return divided


def _with_neighbours(
    y: Array, gates: Array, kernel: Array, ids: Array, back: tuple[int, ...], axis: Axis, devices: int
) -> Array:
    """`y`, computed from a device's own positions, with the few at its ends whose taps reach those of its neighbours.

    Raises:
      ConfigError: a device has fewer positions than taps.
    """
    before, after, length = max(0, *back), max(0, *(-distance for distance in back)), y.shape[1]
    if length < len(back):
        raise ConfigError(
            f"mesh.sequence: {devices} devices get {length} positions of a row each, fewer than the {len(back)} taps "
            "of the convolution; use fewer devices, or longer rows (data.row_length)."
        )
    wide = before + after
    if before:
        near, near_ids = (
            jnp.concatenate([*from_left(x, before, axis, devices), x[:, :wide]], axis=1) for x in (gates, ids)
        )
        y = y.at[:, :before].set(xla_short_conv(near, kernel, near_ids, after == 0)[:, before : 2 * before])
    if after:
        near, near_ids = (
            jnp.concatenate([x[:, -wide:], *from_right(x, after, axis, devices)], axis=1) for x in (gates, ids)
        )
        y = y.at[:, -after:].set(xla_short_conv(near, kernel, near_ids, False)[:, before:wide])
    return y


def _channel_devices(channels: int) -> int:
    """Devices over which the enclosing mesh divides the channels."""
    active = current_rules()
    if active is None:
        return 1
    return axis_size(active[0], fitting_spec((channels,), ("conv_act",))[0])


def short_conv_step(
    u: Float[Array, "B s D"],
    kernel: Float[Array, "k D"],
    columns: Float[Array, "B k-1 D"],
    count: Int[Array, "B"],
) -> tuple[Float[Array, "B s D"], Float[Array, "B k-1 D"]]:
    """Continue the convolution of `u = b * x` in `gated_short_conv` after the columns that came before.

    Args:
      u: the next columns, of which the first `count[b]` of row b are real.
      kernel: `[k, D]`.
      columns: the k-1 columns before `u`, oldest first; zeros where the sequence had not begun.
      count: `[B]`, 0..s.

    Returns:
      `z` at every column of `u` (meaningless beyond `count`), and the last k-1 real columns.
    """
    taps, steps = kernel.shape[0], u.shape[1]
    joined = jnp.concatenate([columns.astype(u.dtype), u], axis=1)
    wide = joined.astype(jnp.float32)
    total = sum(kernel[j].astype(jnp.float32) * wide[:, j : j + steps] for j in range(taps))
    keep = count[:, None] + jnp.arange(taps - 1)
    return jnp.asarray(total).astype(u.dtype), jnp.take_along_axis(joined, keep[..., None], axis=1)
