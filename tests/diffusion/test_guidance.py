"""Guidance: its two ends, its rescaling, batching, two networks, and the variance of independent errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.diffusion.guidance import classifier_free, guide, two_networks
from jaxpo.merge.task_arithmetic import task_arithmetic

RNG = np.random.default_rng(0)
P, N = RNG.standard_normal((2, 4, 2, 2, 3)).astype(np.float32)
X = RNG.standard_normal((4, 2, 2, 3)).astype(np.float32)
T = np.array([1, 5, 9, 2])
CONTEXT, EMPTY = RNG.standard_normal((2, 4, 5, 3)).astype(np.float32)


def test_the_two_ends_are_the_two_predictions():
    np.testing.assert_allclose(guide(P, N, 1.0), P, atol=1e-6)
    np.testing.assert_array_equal(guide(P, N, 0.0), N)
    np.testing.assert_allclose(guide(P, N, 3.0), N + 3.0 * (P - N), rtol=1e-6)
    np.testing.assert_allclose(guide(P, P, 7.5), P, atol=1e-5)  # equal: whatever the scale


def test_rescaling_sets_the_deviation_back():
    plain = np.float64(guide(P, N, 5.0))
    axes = (1, 2, 3)
    ratio = np.std(np.float64(P), axes, keepdims=True) / np.std(plain, axes, keepdims=True)
    np.testing.assert_allclose(guide(P, N, 5.0, rescale=0.7), plain * (0.7 * ratio + 0.3), rtol=1e-5, atol=1e-6)
    whole = np.asarray(guide(P, N, 5.0, rescale=1.0))
    np.testing.assert_allclose(np.std(whole, axes), np.std(P, axes), rtol=1e-5)
    flat = np.zeros_like(P)
    np.testing.assert_array_equal(guide(flat, flat, 5.0, rescale=1.0), 0.0)


def test_independent_predictions_add_their_variance():
    p, n = np.random.default_rng(1).standard_normal((2, 200_000))
    for w in (0.0, 1.0, 2.0, 7.5):
        np.testing.assert_allclose(np.var(guide(p, n, w)), 2 * w**2 - 2 * w + 1, rtol=0.02)


def model(x, t, context, mask=None):
    kept = context if mask is None else context * mask[..., None]
    return x * t[:, None, None, None] + jnp.mean(kept, axis=1)[:, None, None]


@pytest.mark.parametrize("mask", [None, np.arange(5) < np.array([[5], [3], [1], [4]])])
def test_one_batched_call_is_two_calls(mask):
    guided = classifier_free(model, CONTEXT, EMPTY, 4.0, mask=mask)
    expected = guide(model(X, T, CONTEXT, mask), model(X, T, EMPTY), 4.0)
    np.testing.assert_allclose(guided(X, T), expected, rtol=1e-5, atol=1e-5)


def test_at_1_the_empty_half_is_left_out():
    sizes = []

    def counted(x, t, context, mask=None):
        sizes.append(len(x))
        return model(x, t, context, mask)

    for scale in (1.0, 0.0, 3.0):
        classifier_free(counted, CONTEXT, EMPTY, scale)(X, T)
    assert sizes == [4, 8, 8]
    np.testing.assert_allclose(classifier_free(model, CONTEXT, EMPTY, 0.0)(X, T), model(X, T, EMPTY), atol=1e-5)


def test_a_negative_network_is_guided_away_from():
    positive, negative = (lambda x, t: 2.0 * x), (lambda x, t: -x)
    np.testing.assert_array_equal(two_networks(positive, negative, 1.0)(X, T), 2.0 * X)
    np.testing.assert_array_equal(two_networks(positive, negative, 0.0)(X, T), -X)
    np.testing.assert_allclose(two_networks(positive, negative, 3.0)(X, T), -X + 3.0 * 3.0 * X, rtol=1e-6)
    np.testing.assert_allclose(two_networks(positive, positive, 7.0)(X, T), 2.0 * X, rtol=1e-6)


def test_the_merge_of_negative_weights_is_task_arithmetic():
    base, positive, negative = RNG.standard_normal((3, 4, 2)).astype(np.float32)
    merged = task_arithmetic(base, [positive, negative], (0.3, 0.9))
    np.testing.assert_allclose(merged, base + 0.3 * (positive - base) + 0.9 * (negative - base), atol=1e-6)
    np.testing.assert_allclose(task_arithmetic(base, [positive, negative], (0.0, 0.0)), base, atol=1e-6)
    # With neither offset the negative network is the base, and this is ordinary guidance.
    same = two_networks(lambda x, t: model(x, t, CONTEXT), lambda x, t: model(x, t, EMPTY), 4.0)
    np.testing.assert_allclose(same(X, T), classifier_free(model, CONTEXT, EMPTY, 4.0)(X, T), rtol=1e-5, atol=1e-5)


def test_guidance_has_a_gradient():
    slope = jax.grad(lambda p: jnp.sum(guide(p, N, 3.0, rescale=0.5) ** 2))(P)
    assert np.all(np.isfinite(slope))
