"""The short convolution's kernel for TPU: in interpret mode against float64, on a mesh, and compiled for a TPU."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops.aot import device

from jaxpo.config.run import CONV
from jaxpo.errors import BackendError
from jaxpo.ops import conv
from jaxpo.ops.conv_pallas import pallas_short_conv
from jaxpo.ops.conv_refusals import LANES, positions
from jaxpo.ops.conv_xla import distances
from jaxpo.ops.linear import linear
from jaxpo.sharding import make_mesh, use_mesh

# Lengths, taps, positions of a program: no multiples of a program or of eight, one program longer than the row, the
# most taps there are, and as many as there are neighbours' columns in a program.
SIZES = {
    "three programs, the last one short": (70, 3, 32, LANES),
    "a row that is shorter than a program": (19, 4, 32, LANES),
    "nine taps, two chunks of channels": (64, 9, 32, 2 * LANES),
    "one tap": (16, 1, 8, LANES),
}


def _inputs(length, taps, width):
    """A row of documents whose borders lie on and beside those of programs, and one of padding within and behind."""
    rng = np.random.default_rng(length)
    segments = np.zeros((2, length), np.int32)
    segments[0] = 1 + np.isin(np.arange(length), (1, 2, 8, 31, 32, 33, 40, 63, 64)).cumsum()
    segments[1, 3:9], segments[1, 12 : length - 4] = 7, 2
    return (
        rng.standard_normal((2, length, 3, width)),
        rng.standard_normal((taps, width)),
        segments,
        rng.standard_normal((2, length, width)),
    )


def _expected(gates, kernel, segments, g, causal):
    """Value and gradients tap by tap, in float64."""
    (b, c, x), taps, length = np.moveaxis(gates, 2, 0), len(kernel), g.shape[1]
    u, dz, z, du, of_taps = b * x, g * c, np.zeros_like(g), np.zeros_like(g), np.zeros_like(kernel)
    for j in range(taps):
        offset = j - (taps - 1) if causal else j - taps // 2
        t = np.arange(max(0, -offset), min(length, length - offset))
        same = (segments[:, t] == segments[:, t + offset])[..., None]
        z[:, t] += same * kernel[j] * u[:, t + offset]
        du[:, t + offset] += same * kernel[j] * dz[:, t]
        of_taps[j] = (same * dz[:, t] * u[:, t + offset]).sum((0, 1))
    return c * z, np.stack([du * x, g * z, du * b], axis=2), of_taps


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(convolve, gates, kernel, segments, g):
    y, pull = jax.vjp(lambda gates, kernel: convolve(gates, kernel, segments), gates, kernel)
    return y, *pull(g)


def _kernel(taps, causal, block=None, interpret=True):
    return lambda gates, kernel, segments: pallas_short_conv(
        gates, kernel, segments, tuple(distances(taps, causal)), block, interpret
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_values_and_gradients_equal_the_sum_over_taps(name, causal):
    length, taps, block, width = SIZES[name]
    inputs = _inputs(length, taps, width)
    gates, kernel, segments, g = (jnp.asarray(x, x.dtype if x.dtype == np.int32 else jnp.float32) for x in inputs)
    got = _value_and_gradients(_kernel(taps, causal, block), gates, kernel, segments, g)
    for ours, exact in zip(got, _expected(*inputs, causal), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-6 * np.abs(exact).max())


def test_in_bfloat16_it_rounds_only_what_it_returns():
    gates, kernel, segments, g = _inputs(70, 3, LANES)
    given = [jnp.asarray(x, jnp.bfloat16) for x in (gates, kernel, g)]
    gates, kernel, g = (np.asarray(x, np.float64) for x in given)
    got = _value_and_gradients(_kernel(3, True, 32), given[0], given[1], segments, given[2])
    for ours, exact in zip(got, _expected(gates, kernel, segments, g, True), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=2**-8, atol=1e-5 * np.abs(exact).max())


def test_a_segment_keeps_what_is_no_number_to_itself():
    """It is left out, not multiplied by zero, in a document beside it as beyond the end of a row."""
    gates, kernel, _, g = _inputs(70, 3, LANES)
    segments = np.repeat([[1, 2, 1, 3]], 2, 0).repeat([20, 12, 18, 20], 1)
    gates[:, 20:32] = np.nan
    y, of_gates, of_taps = _value_and_gradients(_kernel(3, True, 32), *map(jnp.float32, (gates, kernel)), segments, g)
    outside = np.delete(np.arange(70), np.s_[20:32])
    assert np.isfinite(y[:, outside]).all()
    assert np.isfinite(of_gates[:, outside]).all()
    assert np.isnan(of_taps).all(), "the taps met it"


def test_on_a_mesh_each_device_convolves_its_rows_and_channels():
    """Values and gradients as on one device, with rows, positions and channels over two; and of none where odd."""
    inputs = _inputs(20, 3, 2 * LANES)
    arrays = [jnp.asarray(np.concatenate([x, x]) if i != 1 else x) for i, x in enumerate(inputs)]
    gates, kernel, segments, g = (x.astype(jnp.float32) if x.dtype != jnp.int32 else x for x in arrays)
    local = _kernel(3, True, 32)
    alone = _value_and_gradients(local, gates, kernel, segments, g)
    with use_mesh(make_mesh({"fsdp": 2, "sequence": 2, "tensor": 2})):
        divided = conv.on_mesh(local, (2, 1, 0))
        for ours, theirs in zip(_value_and_gradients(divided, gates, kernel, segments, g), alone, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
        y = jax.jit(divided)(gates, kernel, segments)
        assert y.sharding.shard_shape(y.shape) == (2, 10, LANES)
        odd = jax.eval_shape(divided, gates[:3, :19, :, :129], kernel[:, :129], segments[:3, :19])
        assert odd.shape == (3, 19, 129), "what the devices do not divide is whole on each"


CHOSEN = {
    "tpu": ({"platform": "tpu"}, "pallas", "the best on tpu: one pass"),
    "gpu": ({"platform": "gpu"}, "xla", "the best on gpu: plain XLA"),
    "odd channels": ({"platform": "tpu", "channels": 1000}, "xla", "1000 channels of a device are no multiple of 128"),
    "half": ({"platform": "tpu", "dtype": "float16"}, "xla", "float32 and bfloat16, not float16"),
    "many taps": ({"platform": "tpu", "taps": 10}, "xla", "10 taps are more than 9"),
    "too wide": ({"platform": "tpu", "channels": 16384}, "xla", "16384 channels in bfloat16 do not fit"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_choice_its_reason_and_a_named_one_that_cannot(name):
    asked, expected, why = CHOSEN[name]
    choice = conv.chosen(**asked)
    assert choice.name == expected
    assert why in choice.why
    if asked["platform"] == "tpu" and expected == "xla":
        with pytest.raises(
            BackendError, match=f"gated_short_conv implementation 'pallas' refuses: .*{why}.* take \"xla\""
        ):
            conv.chosen("pallas", **asked)


def test_the_kernel_is_for_tpu_and_what_a_device_has_of_the_channels_counts():
    assert conv.available() == ("xla",)
    assert sorted(CONV) == sorted(b.name for b in conv.BACKENDS)
    gates, kernel, segments, _ = (jnp.asarray(x) for x in _inputs(16, 1, LANES))
    with pytest.raises(BackendError, match=r"'pallas' is not available here; available: xla. It runs on tpu. Leave"):
        conv.gated_short_conv(gates, kernel, segments, implementation="pallas")
    with use_mesh(make_mesh({"fsdp": 4, "tensor": 2})):
        assert conv.chosen(platform="tpu", channels=256).name == "pallas"
        assert "64 channels of a device" in conv.chosen(platform="tpu", channels=128).why
    assert positions(1024, 2) == 256, "the figures in docs/speed.md"


def _shapes(dtype, on=None, rows=8, length=2048, width=1024):
    """Gates, taps, segment ids and a cotangent."""
    shape = lambda *s, dtype=dtype: jax.ShapeDtypeStruct(s, dtype, sharding=on)  # noqa: E731
    kernel, segments = shape(3, width, dtype=jnp.float32), shape(rows, length, dtype=jnp.int32)
    return shape(rows, length, 3, width), kernel, segments, shape(rows, length, width)


def _for_tpu(causal=True):
    return jax.jit(functools.partial(_value_and_gradients, _kernel(3, causal, interpret=False)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_lowers_for_a_tpu_as_two_kernels(dtype):
    module = jax.export.export(_for_tpu(), platforms=["tpu"])(*_shapes(dtype)).mlir_module()
    assert module.count("@tpu_custom_call") == 2


def _bytes(jaxpr):
    """What the blocks of each kernel's programs move, in the order of the program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pallas_call":
            yield eqn.params["cost_estimate"].bytes_accessed
        else:
            for inner in (getattr(p, "jaxpr", p) for p in eqn.params.values()):
                yield from _bytes(inner) if hasattr(inner, "eqns") else ()


@pytest.mark.parametrize(("causal", "units"), [(True, (4.088, 7.174)), (False, (4.150, 7.299))])
def test_the_kernels_read_and_write_every_array_once(causal, units):
    """4 and 7 units of [R, S, D] are the least; the rest are taps, ids and 8 of 256 columns at each end."""
    arguments = _shapes(jnp.bfloat16)
    found = _bytes(jax.make_jaxpr(_for_tpu(causal))(*arguments).jaxpr)
    for moved, bound in zip(found, units, strict=True):
        assert moved / (2 * math.prod(arguments[3].shape)) == pytest.approx(bound, abs=0.001)


COMPILED = {
    "float32, both sides": {"dtype": jnp.float32, "causal": False},
    "1.2B, no multiple of a program": {"dtype": jnp.bfloat16, "rows": 1, "length": 1000, "width": 2048},
    "wide": {"dtype": jnp.float32, "rows": 1, "length": 300, "width": 4096},
    "short rows": {"dtype": jnp.bfloat16, "rows": 2, "length": 20, "width": 128},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiles_for_a_tpu_that_is_not_there(name):
    case = dict(COMPILED[name])
    run, on = _for_tpu(case.pop("causal", True)), jax.sharding.SingleDeviceSharding(device("tpu"))
    assert run.lower(*_shapes(on=on, **case)).compile().as_text().count('custom_call_target="tpu_custom_call"') == 2


def _moved(text, least):
    """What a program writes to memory only to have it in another order, from so many elements on."""
    found = re.findall(r"= \w+\[([\d,]+)\]\S* ((?:copy|transpose|reshape)\(\S+\))", text[text.index("\nENTRY") :])
    return [kind for sizes, kind in found if math.prod(map(int, sizes.split(","))) >= least]


@pytest.mark.slow
def test_between_products_a_tpu_writes_nothing_only_to_have_it_in_another_order():
    _, kernel, segments, dy = _shapes(jnp.bfloat16, jax.sharding.SingleDeviceSharding(device("tpu")))
    unit = math.prod(dy.shape)
    weight = jax.ShapeDtypeStruct((1024, 3, 1024), jnp.float32, sharding=dy.sharding)
    convolve = _kernel(3, True, interpret=False)

    def mixer(x, weight, kernel, segments, dy):
        """As the model has it: the gates come from a product, and their gradient goes into two."""
        y, pull = jax.vjp(lambda x, w, kernel: convolve(linear(x, w), kernel, segments), x, weight, kernel)
        return y, *pull(dy)

    compiled = jax.jit(mixer).lower(dy, weight, kernel, segments, dy).compile()
    assert not _moved(compiled.as_text(), unit)
