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

from jaxpo.ops.backends import Backend, Choice, choose, names_on, sequence_devices
from jaxpo.ops.conv_refusals import Asked, none, pallas
from jaxpo.ops.conv_xla import distances, xla_short_conv
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
    sequence: int | None = None,
) -> Choice:
    """The backend that `gated_short_conv` takes, and why.

    Args:
      implementation: a name, or None for the best.
      platform: "cpu", "gpu" or "tpu"; None = this machine's.
      dtype: of the gates.
      channels: D of the whole model; the enclosing mesh divides them.
      taps: k.
      sequence: devices over which positions are spread; None = those of the enclosing mesh.

    Raises:
      BackendError: the named one is not on this platform, or cannot do it; the message names the remedy.
    """
    asked = Asked(
        platform or jax.default_backend(),
        dtype,
        channels // _channel_devices(channels),
        taps,
        sequence_devices() if sequence is None else sequence,
    )
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

    return (convolve if backend.divisible else on_mesh(convolve))(gates, kernel, segment_ids)


def on_mesh(convolve: Callable[[Array, Array, Array], Array]) -> Callable[[Array, Array, Array], Array]:
    """`convolve` on each device's own rows and channels, because the compiler cannot divide a kernel.

    Rows are divided as the rule "batch" says, channels as "conv_act"; a dimension that is not divided is computed whole
    on every device.
    """

    def divided(gates: Array, kernel: Array, segment_ids: Array) -> Array:
        active = current_rules()
        if active is None or active[0].size == 1:
            return convolve(gates, kernel, segment_ids)
        rows, channels = fitting_spec((gates.shape[0], gates.shape[3]), ("batch", "conv_act"))
        return jax.shard_map(
            convolve,
            mesh=active[0],
            in_specs=(
                PartitionSpec(rows, None, None, channels),
                PartitionSpec(None, channels),
                PartitionSpec(rows, None),
            ),
            out_specs=PartitionSpec(rows, None, channels),
            # A kernel does not say over which axes its results vary.
            check_vma=False,
        )(gates, kernel, segment_ids)

    return divided


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
