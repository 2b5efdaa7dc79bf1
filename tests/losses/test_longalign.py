"""LongAlign's rewards against float64, its decomposition, and every property that its specification lists."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from losses.loss_checks import check_against, value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(0)
B, S, D = 5, 3, 8
IMAGES = RNG.standard_normal((B, D)).astype(np.float32)
SEGMENTS = (RNG.standard_normal((B, S, D)) + 1.0).astype(np.float32)
PRESENT = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
TEXTS = np.asarray(losses.segment_text(SEGMENTS, PRESENT))
V = np.asarray(losses.common_direction(TEXTS))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def score(images, texts, v, omega):
    """The two parts of the score, float64."""
    g, t = unit(np.asarray(images, np.float64)), np.asarray(texts, np.float64)
    eta = t @ v
    return np.sum((t - eta[:, None] * v) * g, -1) + omega * eta * (g @ v)


def test_texts_are_means_of_unit_segments_in_any_order():
    h = unit(SEGMENTS.astype(np.float64))
    expected = [h[i][PRESENT[i]].mean(0) for i in range(B)]
    np.testing.assert_allclose(TEXTS, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.segment_text(SEGMENTS[:, ::-1], PRESENT[:, ::-1]), TEXTS, atol=1e-6)
    spoiled = np.where(PRESENT[..., None], SEGMENTS, np.nan)
    np.testing.assert_array_equal(losses.segment_text(spoiled, PRESENT), TEXTS)
    np.testing.assert_array_equal(losses.segment_text(spoiled, np.zeros_like(PRESENT)), 0.0)
    assert np.linalg.norm(TEXTS[0]) < 1.0  # not made a unit again


def test_the_common_direction_is_that_of_the_whole_step():
    np.testing.assert_allclose(V, unit(TEXTS.astype(np.float64).mean(0)), rtol=1e-5)
    where = np.array([True, False, True, True, False])
    spoiled = np.where(where[:, None], TEXTS, np.nan)
    np.testing.assert_allclose(losses.common_direction(spoiled, where=where), unit(TEXTS[where].mean(0)), rtol=1e-5)
    # Of two halves it is that of their sums, not the mean of two directions.
    halves = unit(unit(TEXTS[:2].mean(0)) + unit(TEXTS[2:].mean(0)))
    assert np.max(np.abs(halves - V)) > 1e-3
    assert np.all(jax.grad(lambda t: losses.common_direction(t).sum())(TEXTS) == 0)


def test_the_equation():
    for omega in (0.3, 0.0, 1.0):
        loss = functools.partial(losses.longalign, omega=omega)
        reference = lambda g, t, v, o=omega: 0.5 * (1 - score(g, TEXTS, V, o)) - 0.09 * (1 - o)  # noqa: E731
        _, grads = check_against(loss, reference, (IMAGES, TEXTS, V), (0,))
        _, constants = value_and_grads(loss, (IMAGES, TEXTS, V), (1, 2))
        for slope in constants:
            np.testing.assert_array_equal(slope, 0.0)
        assert np.any(grads[0] != 0)


def test_omega_1_is_the_score_0_is_without_the_common_part_and_between_it_is_affine():
    np.testing.assert_allclose(losses.reweighted(TEXTS, V, omega=1.0), TEXTS, atol=1e-7)
    rest = losses.reweighted(TEXTS, V, omega=0.0)
    np.testing.assert_allclose(rest @ V, 0.0, atol=1e-6)
    at = lambda o: np.asarray(losses.reweighted(TEXTS, V, omega=o))  # noqa: E731
    np.testing.assert_allclose(at(0.3), 0.3 * at(1.0) + 0.7 * at(0.0), atol=1e-6)


def test_equal_shares_of_the_common_direction_do_not_change_what_an_image_prefers():
    texts = TEXTS - (TEXTS @ V)[:, None] * V + 0.4 * V
    g = unit(IMAGES.astype(np.float64))
    orders = [np.argsort(-(g @ np.asarray(losses.reweighted(texts, V, omega=o)).T), axis=1, kind="stable")
              for o in (0.0, 0.3, 1.0)]  # fmt: skip
    np.testing.assert_array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[1], orders[2])


def test_one_segment_is_the_cosine_and_the_length_of_features_does_not_matter():
    one = np.asarray(losses.segment_text(SEGMENTS[:, :1], np.ones((B, 1), bool)))
    cosine = np.sum(unit(IMAGES.astype(np.float64)) * unit(SEGMENTS[:, 0].astype(np.float64)), -1)
    np.testing.assert_allclose(losses.longalign(IMAGES, one, V, omega=1.0), 0.5 * (1 - cosine), atol=1e-6)
    np.testing.assert_allclose(losses.longalign(7.0 * IMAGES, TEXTS, V), losses.longalign(IMAGES, TEXTS, V), atol=1e-6)


def test_absent_images_cost_nothing():
    where = np.array([True, True, False, True, False])
    loss = lambda g: losses.longalign(g, TEXTS, V, where=where)  # noqa: E731
    value, (slope,) = value_and_grads(loss, (np.where(where[:, None], IMAGES, np.nan),), (0,))
    np.testing.assert_array_equal(value[~where], 0.0)
    np.testing.assert_array_equal(slope[~where], 0.0)
    assert np.all(np.isfinite(slope))


def test_less_of_the_common_direction_keeps_captions_apart():
    """Ascent on free image features: pairs end further apart from what is not theirs with omega .3 than with 1."""

    def gap(omega):
        def climb(g, _):
            slope = jax.grad(lambda x: jnp.sum(losses.longalign(x, TEXTS, V, omega=omega)))(g)
            return g - 0.3 * slope, None

        g, _ = jax.lax.scan(climb, jnp.asarray(IMAGES), None, length=300)
        relevant = losses.reweighted(TEXTS, V, omega=0.0)
        table = np.asarray(unit(np.asarray(g)) @ np.asarray(relevant).T)
        return np.mean(np.diag(table)) - np.mean(table[~np.eye(B, dtype=bool)])

    assert gap(0.3) > gap(1.0) + 0.02


def test_denscore_is_the_cross_entropy_of_two_scores():
    r_w, r_l, z = RNG.standard_normal(B), RNG.standard_normal(B), 1.2

    def reference(w, v, z):
        scores = np.exp(z) * np.stack([w, v])
        return -(scores[0] - np.log(np.sum(np.exp(scores), axis=0)))

    arrays = (r_w.astype(np.float32), r_l.astype(np.float32), np.float32(z))
    check_against(losses.denscore, reference, arrays, (0, 1, 2), rtol=1e-4)
    tie = losses.denscore(*arrays, probability=np.full(B, 0.5, np.float32))
    swapped = losses.denscore(arrays[1], arrays[0], arrays[2], probability=np.full(B, 0.5, np.float32))
    np.testing.assert_allclose(tie, swapped, rtol=1e-5)
    np.testing.assert_allclose(losses.denscore(*arrays, probability=np.ones(B, np.float32)), losses.denscore(*arrays))
