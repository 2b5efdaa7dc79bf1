"""The grouped product's kernels for NVIDIA and TPU: float64 in interpret mode, and lowered for their platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops.aot import device

from jaxpo.errors import BackendError
from jaxpo.ops.grouped import _BACKENDS, available, chosen, group_rows, grouped_matmul
from jaxpo.ops.grouped_megablox import megablox_product
from jaxpo.ops.grouped_triton import triton_product

ROWS, IN, OUT, BLOCK = 128, 32, 48, 16
TRITON = "__gpu$xla.gpu.triton"
# A group without rows, one that is a part of a tile of 128, slots behind the last; all in one; none at all.
SIZES = ([32, 0, 16, 48], [0, 128, 0, 0], [0, 0, 0, 0])


def _kernel(name, interpret=False):
    if name == "megablox":
        return lambda x, w, sizes: megablox_product(x, w, sizes, interpret)
    return lambda x, w, sizes: triton_product(x, w, sizes, BLOCK, interpret)


def _value_and_gradients(product, x, w, sizes, dy):
    y, pull = jax.vjp(lambda x, w: product(x, w, sizes), x, w)
    return y, *pull(dy)


def _reference(x, w, sizes, dy):
    y, dx, dw = np.zeros((ROWS, OUT)), np.zeros((ROWS, IN)), np.zeros(w.shape)
    for e, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
        rows = slice(end - size, end)
        y[rows], dx[rows], dw[e] = x[rows] @ w[e], dy[rows] @ w[e].T, x[rows].T @ dy[rows]
    return y, dx, dw


@pytest.mark.parametrize("name", ["megablox", "triton"])
def test_value_and_gradients(name):
    run = jax.jit(functools.partial(_value_and_gradients, _kernel(name, interpret=True)))
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape) for shape in ((ROWS, IN), (4, IN, OUT), (ROWS, OUT)))
    for sizes in SIZES:
        found = run(*(jnp.asarray(a, jnp.float32) for a in (x, w)), jnp.asarray(sizes), jnp.asarray(dy, jnp.float32))
        for ours, theirs in zip(found, _reference(x, w, sizes, dy), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def _program(name, dtype, on=None):
    shapes = ((ROWS, IN), dtype), ((4, IN, OUT), jnp.float32), ((4,), jnp.int32), ((ROWS, OUT), dtype)
    return jax.jit(functools.partial(_value_and_gradients, _kernel(name))), [
        jax.ShapeDtypeStruct(*shape, sharding=on) for shape in shapes
    ]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    ("name", "platform", "call"), [("megablox", "tpu", "tpu_custom_call"), ("triton", "cuda", TRITON)]
)
def test_lowers_for_its_platform_as_three_kernels(name, platform, call, dtype):
    run, arguments = _program(name, dtype)
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(TRITON)]
    exported = jax.export.export(run, platforms=[platform], disabled_checks=unchecked)(*arguments)
    assert exported.mlir_module().count(f"custom_call @{call}") == 3
    y, dx, dw = exported.out_avals
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, jnp.float32)


@pytest.mark.parametrize(("name", "platform"), [("megablox", "tpu"), ("triton", "cuda")])
def test_compiles_for_its_chip(name, platform):
    run, arguments = _program(name, jnp.bfloat16, jax.sharding.SingleDeviceSharding(device(platform)))
    assert run.lower(*arguments).compile().as_text().count("custom_call_target=") >= 3


def test_each_platform_takes_its_kernel_and_says_why():
    assert [chosen(platform=p, widths=(512, 448))[0] for p in ("cpu", "gpu", "tpu")] == ["blocks", "triton", "megablox"]
    assert {name for p in ("cpu", "gpu", "tpu") for name in available(p)} == set(_BACKENDS)
    name, why = chosen(platform="gpu", widths=(12, 448))
    assert name == "blocks"
    assert "'triton' needs widths and blocks in multiples of 16, not 12 and 448 in blocks of 64" in why


def test_a_kernel_that_cannot_is_refused():
    with pytest.raises(
        BackendError, match=r"multiples of 16, not 512 and 448 in blocks of 8. Leave the implementation"
    ):
        chosen("triton", platform="gpu", widths=(512, 448), block=8)
    groups = group_rows(jnp.zeros((4, 1), jnp.int32), 2, block=16)
    for name in ("triton", "megablox"):
        with pytest.raises(BackendError, match=f"'{name}' is not available here; available: blocks, ragged_dot"):
            grouped_matmul(jnp.zeros((32, 16)), jnp.zeros((2, 16, 16)), groups, implementation=name)
