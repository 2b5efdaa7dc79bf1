"""PAL against its equations in float64, and every property that the specification lists."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, sp

from jaxpo import losses

RNG = np.random.default_rng(1)
N, T, D = 4, 5, 3
ITEMS_C, ITEMS_R = (RNG.normal(size=(N, T, D)).astype(np.float32) for _ in range(2))
IDEAL = RNG.normal(size=(N, D)).astype(np.float32)
START, END = np.int32([1, 0, 4, 3]), np.int32([5, 3, 5, 3])
WEIGHTS = np.asarray(losses.pal_token_weights(START, END, T))


def weights_of(start, end, how):
    """The weights, one by one."""
    found = np.zeros((N, T))
    for n in range(N):
        span = end[n] - start[n]
        for j in range(1, span + 1):
            one = {"cumulative": j / (span * (span + 1) / 2), "mean": 1 / span, "last": float(j == span)}
            found[n, start[n] + j - 1] = one[how]
    return found


@pytest.mark.parametrize("how", ["cumulative", "mean", "last"])
def test_token_weights(how):
    found = np.asarray(losses.pal_token_weights(START, END, T, weighting=how))
    np.testing.assert_allclose(found, weights_of(START, END, how), rtol=1e-6)
    np.testing.assert_allclose(found.sum(1), [1, 1, 1, 0], rtol=1e-6)  # an empty span has none
    three = losses.pal_token_weights(np.int32([2]), np.int32([5]), T, weighting="cumulative")
    np.testing.assert_allclose(three[0, 2:], [1 / 6, 2 / 6, 3 / 6], rtol=1e-6)
    one = losses.pal_token_weights(np.int32([2]), np.int32([3]), T, weighting=how)
    np.testing.assert_allclose(one, [[0, 0, 1, 0, 0]])


def test_variant_a_is_its_equations():
    def reference(c, r, u):
        c, r, u = (np.asarray(x, np.float64) for x in (c, r, u))
        d = np.linalg.norm(r - u[:, None], axis=-1) - np.linalg.norm(c - u[:, None], axis=-1)
        return (weights_of(START, END, "cumulative") * np.maximum(0, 1 - d)).sum(1)

    def loss(c, r, u):
        return losses.pal(*(-losses.pal_distance(x, u[:, None]) for x in (c, r)), WEIGHTS)

    value, _ = check_against(loss, reference, (ITEMS_C, ITEMS_R, IDEAL), (0, 1, 2))
    assert value[3] == 0.0  # an empty span: still one of the pairs that the mean divides by
    check_bfloat16(loss, (ITEMS_C, ITEMS_R, IDEAL), (0, 1, 2))


def cosine(x, u):
    return (x * u).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(u, axis=-1))


def test_variant_b_is_its_equations():
    def reference(c, r, u, z):
        c, r, u, z = (np.asarray(x, np.float64) for x in (c, r, u, z))
        d = np.exp(z) * (cosine(c, u[:, None]) - cosine(r, u[:, None]))
        return (weights_of(START, END, "cumulative") * sp(-d)).sum(1)

    def loss(c, r, u, z):
        return losses.pal(*(losses.pal_similarity(x, u[:, None], z) for x in (c, r)), WEIGHTS, form="logistic")

    check_against(loss, reference, (ITEMS_C, ITEMS_R, IDEAL, np.float32(math.log(1 / 0.07))), (0, 1, 2, 3), rtol=5e-5)


def test_exchanging_sides_and_label_changes_nothing():
    """The pair's logit changes its sign, and a loss reads y times the logit."""
    c, r = RNG.normal(size=(2, N, T)).astype(np.float32)
    one = np.ones((N, 1), np.float32)
    for form in ("hinge", "logistic"):
        forth = losses.pal(c[:, -1:], r[:, -1:], one, form=form)
        back = losses.pal(-r[:, -1:], -c[:, -1:], one, form=form)  # other sides, y = -1
        np.testing.assert_array_equal(forth, back)
    plain = losses.bradley_terry(c[:, -1], r[:, -1])
    np.testing.assert_allclose(losses.pal(c[:, -1:], r[:, -1:], one, form="logistic"), plain, rtol=1e-6)


def test_an_isometry_moves_nothing_and_a_wide_margin_is_done():
    q, _ = np.linalg.qr(RNG.normal(size=(D, D)))
    move = lambda x: (x @ q + 2.0).astype(np.float32)  # noqa: E731
    still, moved = (
        losses.pal(*(-losses.pal_distance(f(x), f(IDEAL)[:, None]) for x in (ITEMS_C, ITEMS_R)), WEIGHTS)
        for f in (lambda x: x, move)
    )
    np.testing.assert_allclose(still, moved, rtol=1e-4, atol=1e-5)
    done = lambda c: jnp.sum(losses.pal(c, jnp.zeros((1, 1)), jnp.ones((1, 1))))  # noqa: E731
    for margin in (1.0, 1.5):
        value, slope = jax.value_and_grad(done)(jnp.full((1, 1), margin))
        assert float(value) == float(slope[0, 0]) == 0.0


def test_similarities_know_directions_alone_and_are_bounded():
    z = np.float32(9.0)
    plain = losses.pal_similarity(ITEMS_C, IDEAL[:, None], z)
    np.testing.assert_allclose(losses.pal_similarity(7 * ITEMS_C, 0.1 * IDEAL[:, None], z), plain, rtol=1e-4, atol=1e-4)
    assert np.all(np.abs(plain) <= 100.0 * (1 + 1e-6))
    np.testing.assert_allclose(losses.pal_similarity(IDEAL, IDEAL, z), 100.0, rtol=1e-6)


def test_an_item_at_the_ideal_point_has_a_gradient():
    for function in (
        losses.pal_distance,
        lambda x, u: losses.pal_similarity(x, u, 1.0),
        lambda x, u: losses.pal_bound(x - u, 1.0),
    ):
        zero = jnp.zeros((2, D))
        grads = jax.grad(lambda x, u: jnp.sum(function(x, u)), argnums=(0, 1))(zero, zero)  # noqa: B023
        assert all(np.all(np.isfinite(g)) for g in grads)


def test_mixtures():
    logits = RNG.normal(size=(3, 4)).astype(np.float32)
    w = np.asarray(losses.pal_mixture(logits, temperature=0.5), np.float64)
    expected = np.exp(logits / 0.5)
    np.testing.assert_allclose(w, expected / expected.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(losses.pal_mixture(logits[:, :1]), 1.0)  # K = 1: one model for all
    peaked = losses.pal_mixture(np.float32([[0, 1e4, 0]]))
    np.testing.assert_array_equal(peaked, [[0, 1, 0]])


def test_the_bound_is_its_equation():
    check_against(
        lambda u: losses.pal_bound(u, 1.0),
        lambda u: np.maximum(np.linalg.norm(np.asarray(u, np.float64), axis=-1) - 1.0, 0), (IDEAL,), (0,),
    )  # fmt: skip
