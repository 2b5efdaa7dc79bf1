"""A batch of one row is reduced without the axis of rows, and gives what the same row gives beside another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ops.jaxprs import equations

from jaxpo.losses.vocab import entropy, log_prob
from jaxpo.ops.head import map_vocab
from jaxpo.ops.norm import rms_norm
from jaxpo.ops.one_row import without_one_row

S, D, V = 12, 8, 33


def drawn(rows):
    """Hidden states [R, S, D], the first row always the same, a weight per feature, a head, and targets."""
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jnp.concatenate([jax.random.normal(jax.random.fold_in(keys[0], i), (1, S, D)) for i in range(rows)])
    targets = jnp.tile(jax.random.randint(keys[3], (1, S), 0, V), (rows, 1))
    return hidden, jax.random.normal(keys[1], (D,)), jax.random.normal(keys[2], (V, D)), targets


def term(logits, target):
    return {"logps": log_prob(logits, target), "entropy": entropy(logits)}


def scored(chunk):
    def total(hidden, weight, head, targets):
        found = map_vocab(term, ((head, rms_norm(hidden, weight, 1e-6)),), targets, chunk=chunk)
        assert all(each.shape == hidden.shape[:2] for each in found.values())
        # The first row alone counts, so that a second one changes neither value nor gradients.
        return jnp.sum(found["logps"][0] + 0.5 * found["entropy"][0])

    return total


@pytest.mark.parametrize("chunk", [None, 5], ids=["at once", "in chunks"])
def test_value_and_gradients_are_those_beside_another_row(chunk):
    one, two = (jax.jit(jax.value_and_grad(scored(chunk), argnums=(0, 1, 2)))(*drawn(rows)) for rows in (1, 2))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    for mine, theirs in zip(one[1], (two[1][0][:1], *two[1][1:]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-6)


def reduced(jaxpr):
    """Shapes of all arrays that are reduced."""
    names = ("reduce_", "argm")
    return [e.invars[0].aval.shape for e in equations(jaxpr) if e.primitive.name.startswith(names)]


@pytest.mark.parametrize("chunk", [None, 5], ids=["at once", "in chunks"])
def test_nothing_is_reduced_with_the_axis_in_place(chunk):
    found = reduced(jax.make_jaxpr(jax.grad(scored(chunk), argnums=(0, 1, 2)))(*drawn(1)).jaxpr)
    assert len(found) > 5
    assert not [shape for shape in found if len(shape) > 2 and shape[0] == 1]
    assert [shape for shape in reduced(jax.make_jaxpr(scored(chunk))(*drawn(2)).jaxpr) if len(shape) > 2]


def test_trees_go_in_and_come_out_with_their_axis():
    seen = []

    def f(a, b):
        seen.append((a["x"].shape, b.shape))
        return {"sum": a["x"] + b, "none": None}

    for rows, inside in ((1, (3,)), (2, (2, 3))):
        found = without_one_row(f, {"x": jnp.ones((rows, 3))}, jnp.ones((rows, 3)))
        assert found["sum"].shape == (rows, 3)
        assert found["none"] is None
        assert seen[-1] == (inside, inside)
