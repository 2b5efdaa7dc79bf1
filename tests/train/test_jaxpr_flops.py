"""The walked count against counts by hand, for each way in which one program holds another."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from jaxpo.sharding import make_mesh
from jaxpo.train.jaxpr_flops import Work, count_flops

A, B = jnp.ones((6, 10)), jnp.ones((10, 14))
ONE = 2 * 6 * 10 * 14


@jax.custom_vjp
def ruled(x, y):
    return x @ y


ruled.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


def scanned(x, y):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c), c @ y), x, length=7)[1]


def nested(x, y):
    return jax.lax.scan(lambda c, _: (c, scanned(x, y)), 0.0, length=3)[1]


def branched(x, y):
    return jax.lax.cond(x[0, 0] > 0, lambda: (x @ y) @ (y.T @ y), lambda: x @ y)


def repeated(x, y):
    return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c + x @ y, jnp.zeros((6, 14)))


def sharded(x, y):
    mesh = make_mesh({"fsdp": 2, "tensor": 4}, jax.devices()[:8])
    axes = {"fsdp", "tensor"}
    local = lambda x, y: jax.lax.psum(x @ y, "fsdp")  # noqa: E731
    return jax.shard_map(local, mesh=mesh, in_specs=(P(None, "fsdp"), P("fsdp")), out_specs=P(), axis_names=axes)(x, y)


def kernel(x, y):
    def body(x, y, out):
        out[...] = x[...] @ y[...]

    block = lambda rows, columns, index: pl.BlockSpec((rows, columns), index)  # noqa: E731
    specs = [block(2, 10, lambda i, j: (i, 0)), block(10, 7, lambda i, j: (0, j))]
    shape = jax.ShapeDtypeStruct((6, 14), jnp.float32)
    out = block(2, 7, lambda i, j: (i, j))
    return pl.pallas_call(body, shape, grid=(3, 2), in_specs=specs, out_specs=out, interpret=True)(x, y)


def gradient(function):
    return jax.grad(lambda *xy: jnp.sum(function(*xy) ** 2), (0, 1))


CASES = {
    "a product": (lambda x, y: x @ y, Work(ONE)),
    "nothing": (lambda x, y: jnp.sum(jnp.tanh(x)) + jnp.sum(y), Work(0)),
    "with batch axes": (
        lambda x, y: jnp.einsum("bij,bjk->bik", x[None] * jnp.ones((5, 1, 1)), y[None] * jnp.ones((5, 1, 1))),
        Work(5 * ONE),
    ),
    "several contracted": (lambda x, y: jnp.einsum("ij,ij->", x, x), Work(2 * 60)),
    "jitted twice": (lambda x, y: jax.jit(jax.jit(jnp.dot))(x, y), Work(ONE)),
    "its gradient": (gradient(jnp.dot), Work(3 * ONE)),
    "recomputed": (gradient(jax.checkpoint(lambda x, y: jnp.tanh(x @ y))), Work(4 * ONE)),
    "kept": (gradient(lambda x, y: jnp.tanh(x @ y)), Work(3 * ONE)),
    "with a rule": (gradient(ruled), Work(3 * ONE)),
    "in a scan": (scanned, Work(7 * ONE)),
    "in scans": (nested, Work(21 * ONE)),
    "gradient of a scan": (gradient(scanned), Work(21 * ONE)),
    "in a branch": (branched, Work(ONE + 2 * 14 * 10 * 14 + 2 * 6 * 14 * 14)),
    "in an unknown loop": (repeated, Work(ONE, unknown=1)),
    "on every shard": (sharded, Work(ONE * 4)),  # over "tensor" all four devices compute the same
    "in a kernel": (kernel, Work(ONE)),
    "mapped": (lambda x, y: jax.vmap(jnp.dot, (0, None))(x, y), Work(ONE)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_counted_by_hand(name):
    function, expected = CASES[name]
    assert count_flops(function, A, B) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(groups):
    """Per output: kernel width times input features of its group, a multiply-add each."""
    x, w = jnp.ones((3, 20, 8)), jnp.ones((4, 8 // groups, 6))
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding="VALID",
        feature_group_count=groups,
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
    assert count_flops(convolve, x, w) == Work(2 * 3 * 17 * 6 * 4 * 8 / groups)


def test_a_grouped_product_counts_every_row_once():
    x, w, sizes = jnp.ones((20, 8)), jnp.ones((4, 8, 6)), jnp.full(4, 5)
    once = 2 * 20 * 8 * 6
    assert count_flops(jax.lax.ragged_dot, x, w, sizes) == Work(once)
    both = jax.grad(lambda x, w: jnp.sum(jax.lax.ragged_dot(x, w, sizes) ** 2), (0, 1))
    assert count_flops(both, x, w) == Work(3 * once)


def test_abstract_values_do():
    shapes = (jax.ShapeDtypeStruct((10**6, 10**5), jnp.bfloat16), jax.ShapeDtypeStruct((10**5, 10**4), jnp.bfloat16))
    assert count_flops(jnp.dot, *shapes) == Work(2e15)
