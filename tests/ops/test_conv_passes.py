"""How often the gated short convolution goes over memory, read off compiled programs: CPU's, and NVIDIA's where found.

A unit is one [R, S, D] array; the gates are three. The least there is: 4 forward (3 in, 1 out), 7 for the gates'
gradient (4 in, 3 out), 4 for the taps'. With `jax-cuda12-plugin` installed XLA compiles for a chip that is not here.
"""

import jax
import jax.numpy as jnp
import pytest
from ops.aot import device
from ops.compiled import traffic

from jaxpo.ops.conv import gated_short_conv

R, S, D, TAPS = 8, 512, 512, 3


def _units(platform, dtype):
    """Passes over more than a tenth of a unit, in units: forward, backward."""
    on = None if platform == "cpu" else jax.sharding.SingleDeviceSharding(device(platform))
    shapes = ((R, S, 3, D), dtype), ((TAPS, D), dtype), ((R, S), jnp.int32), ((R, S, D), dtype)
    gates, kernel, segments, dy = (jax.ShapeDtypeStruct(*shape, sharding=on) for shape in shapes)

    def backward(gates, kernel, segments, dy):
        return jax.vjp(lambda gates, kernel: gated_short_conv(gates, kernel, segments), gates, kernel)[1](dy)

    one = R * S * D * jnp.dtype(dtype).itemsize
    for f, arguments in ((gated_short_conv, (gates, kernel, segments)), (backward, (gates, kernel, segments, dy))):
        text = jax.jit(f).lower(*arguments).compile().as_text()
        yield sorted(round(size / one, 1) for size in traffic(text).values() if size > 0.1 * one)


def test_cpu_goes_over_memory_once_forward_and_five_times_backward():
    forward, backward = _units("cpu", jnp.float32)
    assert forward == [4.0]
    # u and dy c written padded (4 + 5), the gates' gradient from them (9), the taps' products (8) and their sum (3).
    assert len(backward) <= 5
    assert sum(backward) <= 29.2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_nvidia_goes_over_memory_as_rarely_as_can_be(dtype):
    forward, backward = _units("cuda", dtype)
    assert forward == [4.0]
    assert backward == [4.0, 7.0]
