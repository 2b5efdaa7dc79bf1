"""The grouped product: layout, value and gradient against one product per row in float64; nothing dropped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.errors import BackendError
from jaxpo.ops import grouped
from jaxpo.ops.grouped import available, block_size, combine, dispatch, group_rows, grouped_matmul

ROWS, K, GROUPS, IN, OUT = 40, 3, 5, 6, 4


_layout = jax.jit(functools.partial(group_rows, groups=GROUPS, block=4))


def _assignments(kind):
    rng = np.random.default_rng(1)
    return {
        "even": np.stack([rng.permutation(GROUPS)[:K] for _ in range(ROWS)]),
        "one group": np.full((ROWS, K), 3),
        "some absent": np.where(rng.random((ROWS, K)) < 0.4, -1, rng.integers(0, GROUPS, (ROWS, K))),
        "beyond": np.where(rng.random((ROWS, K)) < 0.4, GROUPS + 2, rng.integers(0, 2, (ROWS, K))),
        "none": np.full((ROWS, K), -1),
    }[kind]


def _reference(x, w, v, weights, chosen):
    """`sum_k weights (x W) V`, one row and choice after another; gradients of its sum with cotangent c in turn."""
    out = np.zeros((ROWS, IN))
    for t in range(ROWS):
        for k in range(K):
            if 0 <= chosen[t, k] < GROUPS:
                out[t] += weights[t, k] * (x[t] @ w[chosen[t, k]] @ v[chosen[t, k]])
    return out


@functools.partial(jax.jit, static_argnames="implementation")
def _value_and_gradient(arrays, chosen, cotangent, implementation):
    def f(x, w, v, weights):
        groups = group_rows(chosen, GROUPS, block=4)
        inner = grouped_matmul(dispatch(x, groups), w, groups, implementation=implementation)
        y = combine(grouped_matmul(inner, v, groups, implementation=implementation), weights, groups)
        return jnp.sum(y * cotangent), y

    return jax.grad(f, argnums=(0, 1, 2, 3), has_aux=True)(*arrays)


@pytest.mark.parametrize("implementation", ["blocks", "ragged_dot"])
@pytest.mark.parametrize("kind", ["even", "one group", "some absent", "beyond", "none"])
def test_value_and_gradient(kind, implementation):
    rng, chosen = np.random.default_rng(0), _assignments(kind)
    x, w, v = (rng.standard_normal(s) for s in ((ROWS, IN), (GROUPS, IN, OUT), (GROUPS, OUT, IN)))
    weights, cotangent = rng.random((ROWS, K)), rng.standard_normal((ROWS, IN))
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, w, v, weights)]
    gradient, y = _value_and_gradient(arrays, chosen, cotangent, implementation)
    np.testing.assert_allclose(y, _reference(x, w, v, weights, chosen), atol=2e-5)
    for i, found in enumerate(gradient):
        # The function is linear in each argument by itself, so a difference along a direction is its derivative.
        direction = rng.standard_normal(found.shape)
        moved = [a + direction if i == j else a for j, a in enumerate((x, w, v, weights))]
        change = _reference(*moved, chosen) - _reference(x, w, v, weights, chosen)
        np.testing.assert_allclose(np.sum(np.asarray(found) * direction), np.sum(cotangent * change), atol=1e-3)


@pytest.mark.parametrize("kind", ["even", "one group", "some absent", "none"])
def test_layout_holds_every_assignment_once_in_blocks_of_one_group(kind):
    chosen = _assignments(kind)
    groups = _layout(chosen)
    slot, source, sizes = np.asarray(groups.slot), np.asarray(groups.source), np.asarray(groups.sizes)
    present = (chosen >= 0) & (chosen < GROUPS)
    assert len(np.unique(slot[present])) == present.sum() == (source < ROWS).sum()
    assert (slot[~present] == len(source)).all()
    owner = np.repeat(np.arange(GROUPS), sizes)
    for t, k in np.argwhere(present):
        assert (source[slot[t, k]], groups.choice[slot[t, k]], owner[slot[t, k]]) == (t, k, chosen[t, k])
    assert not (sizes % 4).any()
    assert sizes.sum() <= len(source)
    np.testing.assert_array_equal(sizes, [-(-np.sum(chosen == e) // 4) * 4 for e in range(GROUPS)])


def test_blocks_follow_the_load():
    assert [block_size(n, 32) for n in (4, 1024, 4096, 16384, 10**6)] == [8, 8, 16, 64, 64]


def test_products_are_in_the_type_of_the_rows_and_gradients_in_that_of_the_weights():
    groups = _layout(_assignments("even"))
    rows = dispatch(jnp.ones((ROWS, IN), jnp.bfloat16), groups)
    w = jnp.ones((GROUPS, IN, OUT))
    assert grouped_matmul(rows, w, groups).dtype == jnp.bfloat16
    assert jax.grad(lambda w: grouped_matmul(rows, w, groups).sum().astype(jnp.float32))(w).dtype == jnp.float32


def test_a_named_backend_is_used_or_refused():
    assert available()[0] == "blocks"  # never ragged_dot on CPU or GPU
    groups, w = _layout(_assignments("even")), jnp.ones((GROUPS, IN, OUT))
    rows = dispatch(jnp.ones((ROWS, IN)), groups)
    with pytest.raises(BackendError, match="'megablox' is not available here; available: blocks, ragged_dot"):
        grouped_matmul(rows, w, groups, implementation="megablox")


def test_fewer_slots_than_are_multiplied_at_once():
    groups = group_rows(jnp.array([[1], [0], [1]]), 2, block=4)
    x, w = jnp.arange(6.0).reshape(3, 2), jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    y, pull = jax.vjp(
        lambda x, w: combine(grouped_matmul(dispatch(x, groups), w, groups), jnp.ones((3, 1)), groups), x, w
    )
    np.testing.assert_array_equal(y, [[4], [8], [32]])
    dx, dw = pull(jnp.ones((3, 1)))
    np.testing.assert_array_equal(dx, [[3, 4], [1, 2], [3, 4]])
    np.testing.assert_array_equal(dw, [[[2], [3]], [[4], [6]]])


def test_groups_of_every_number_of_blocks(monkeypatch):
    """Tiles of four, two and one blocks add up to any of them, and to nothing else."""
    monkeypatch.setattr(grouped, "TOGETHER", 16)
    rng, loads = np.random.default_rng(2), np.arange(10) * 4 - 1
    chosen = np.repeat(np.arange(10), np.maximum(loads, 0))
    x, dy = (rng.standard_normal((len(chosen), n)) for n in (IN, OUT))
    w = rng.standard_normal((10, IN, OUT))

    def product(x, w):
        groups = group_rows(jnp.asarray(chosen)[:, None], 10, block=4)
        return combine(grouped_matmul(dispatch(x, groups), w, groups), jnp.ones((len(chosen), 1)), groups)

    def value_and_gradients(x, w, dy):
        y, pull = jax.vjp(product, x, w)
        return y, *pull(dy)

    y, dx, dw = jax.jit(value_and_gradients)(*(jnp.asarray(a, jnp.float32) for a in (x, w, dy)))
    np.testing.assert_allclose(y, np.einsum("ri,rio->ro", x, w[chosen]), atol=1e-5)
    np.testing.assert_allclose(dx, np.einsum("ro,rio->ri", dy, w[chosen]), atol=1e-5)
    for e in range(10):
        np.testing.assert_allclose(dw[e], x[chosen == e].T @ dy[chosen == e], atol=1e-5)


def test_what_is_combined_is_in_the_type_of_the_weights():
    groups, weights = _layout(_assignments("even")), jnp.ones((ROWS, K))
    y = jnp.ones((len(groups.source), OUT), jnp.bfloat16)
    combined, pull = jax.vjp(lambda y: combine(y, weights, groups), y)
    assert combined.dtype == jnp.float32
    assert pull(combined)[0].dtype == jnp.bfloat16
