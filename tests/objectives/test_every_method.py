"""Every method of the catalogue on feature arrays: order, empty places, accumulation and sharding do not matter.

One tiny network gives the features, encoded once per shape of need and shared; only the loss is compiled per method.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import SCORER, initial
from contracts.needs import OF_TOKENS, configured, kind_of, shape_of_need

from jaxpo.sharding import batch_sharding, make_mesh, use_mesh

COUNT, PLACES = 13, 16


@functools.cache
def batch_of(kind):
    """13 examples in 16 places."""
    return packed(make_examples(kind, COUNT), blocks=8)


@functools.cache
def encoded(need):
    """Features and batch of one shape of need, on the host."""
    name = next(n for n in OF_TOKENS if shape_of_need(n) == need)
    method = configured(name)
    objective = method.build(SCORER)
    batch = batch_of(kind_of(method))
    state, frozen = initial(objective, method)
    features, _ = jax.jit(objective.encode)(state.params, frozen, batch, jax.random.key(0))
    return jax.device_get((features, batch))


class Loss:
    """A method's loss, its gradient in the features, metrics and stats, as one compiled function of arrays."""

    def __init__(self, name):
        self.objective = configured(name).build(SCORER)
        self.features, self.batch = encoded(shape_of_need(name))
        self.counts = self.objective.counts(jax.device_put(self.batch))
        self.run = jax.jit(self._run)

    def _run(self, features, batch):
        leaves, treedef = jax.tree.flatten(features)
        real = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

        def loss(chosen):
            joined = list(leaves)
            for i, x in zip(real, chosen, strict=True):
                joined[i] = x
            out = self.objective.loss(
                jax.tree.unflatten(treedef, joined), batch, self.objective.init_carry(), self.counts
            )
            return out.loss, out

        grads, out = jax.grad(loss, has_aux=True)([leaves[i] for i in real])
        return out, grads

    def __call__(self, index=None, keep=None):
        """On all examples, in the order of `index`, or with empty places (all zeros) where `keep` is False."""
        picked = self.features if index is None else jax.tree.map(lambda x: x[index], self.features)
        if keep is not None:
            picked = jax.tree.map(
                lambda x: np.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x, np.zeros_like(x)), picked
            )
        return jax.device_get(self.run(picked, self.batch))


@functools.cache
def loss_of(name):
    return Loss(name)


def assert_equal(got, expected, index=None):
    """Loss, metrics, stats, and the gradient of each example wherever it stands."""
    out, grads = got
    np.testing.assert_allclose(out.loss, expected[0].loss, rtol=2e-5, atol=1e-6)
    for name, metric in expected[0].metrics.items():
        np.testing.assert_allclose(out.metrics[name].value(), metric.value(), rtol=2e-5, atol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(out.stats), jax.tree.leaves(expected[0].stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    for a, b in zip(grads, expected[1], strict=True):
        np.testing.assert_allclose(a, b if index is None else b[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_the_loss_does_something_finite(name):
    out, grads = loss_of(name)()
    assert np.isfinite(out.loss)
    assert all(np.all(np.isfinite(g)) for g in grads)
    assert max(float(np.max(np.abs(g))) for g in grads) > 0
    assert all(np.isfinite(m.value()) for m in out.metrics.values())


@pytest.mark.parametrize("name", OF_TOKENS)
def test_order_and_empty_places_do_not_matter(name):
    index = np.random.default_rng(0).permutation(PLACES)
    assert_equal(loss_of(name)(index), loss_of(name)(), index)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_microbatches_add_up(name):
    run = loss_of(name)
    if run.objective.coupled:
        pytest.skip("the step hands a coupled loss all features at once")
    whole, grads = run()
    even = np.arange(PLACES) % 2 == 0
    (a, ga), (b, gb) = run(keep=even), run(keep=~even)
    # An empty place gets no gradient, so the halves' gradients simply add.
    assert_equal((a.merge(b), [x + y for x, y in zip(ga, gb, strict=True)]), (whole, grads))


@pytest.mark.slow  # tests/contracts/test_objectives.py trains each shape of need on eight devices
@pytest.mark.parametrize("name", OF_TOKENS)
def test_sharded_features_give_the_same(name):
    run = loss_of(name)
    mesh = make_mesh({"fsdp": 8}, jax.devices()[:8])
    with use_mesh(mesh):
        # The step replicates the features of a coupled loss first.
        placed = run.features if run.objective.coupled else jax.device_put(run.features, batch_sharding(mesh))
        assert_equal(jax.device_get(run.run(placed, run.batch)), run())
