"""DARE and DELLA: density, rescaling, mean, and masks that depend on nothing but seed, leaf and model."""

import numpy as np
import pytest
from merge.merge_leaves import drop, generators, leaves

from jaxpo.merge.dare import dare_linear, dare_ties
from jaxpo.merge.della import della, della_linear, keep_probability, magprune
from jaxpo.merge.numerics import generator
from jaxpo.merge.task_arithmetic import task_arithmetic
from jaxpo.merge.ties import ties

DENSITY = 0.3
SIZE = (200, 300)


def delta():
    return np.random.default_rng(3).normal(size=SIZE).astype(np.float32)


def test_drop_keeps_the_share_and_rescales():
    d = delta()
    kept = drop(d, DENSITY, np.random.default_rng(0))
    mask = kept != 0
    # Five standard deviations of a binomial share.
    assert mask.mean() == pytest.approx(DENSITY, abs=5 * np.sqrt(DENSITY * (1 - DENSITY) / d.size))
    np.testing.assert_allclose(kept[mask], d[mask] / DENSITY, rtol=1e-6)
    np.testing.assert_array_equal(drop(d, DENSITY, np.random.default_rng(0), "none")[mask], d[mask])
    assert np.abs(drop(d, DENSITY, np.random.default_rng(0), "l1")).sum() == pytest.approx(np.abs(d).sum(), rel=1e-5)
    np.testing.assert_array_equal(drop(d, 1.0, np.random.default_rng(0)), d)


def mean_and_error(function, draws=400):
    d = np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32)
    samples = np.stack([function(d, np.random.default_rng(i)) for i in range(draws)]).astype(np.float64)
    return d, samples.mean(0), samples.std(0) / np.sqrt(draws)


@pytest.mark.parametrize(
    "function",
    [lambda d, r, how: drop(d, DENSITY, r, how), lambda d, r, how: magprune(d, DENSITY, 0.4, r, how)],
    ids=["dare", "della"],
)
def test_the_mean_over_draws_is_the_task_vector(function):
    d, mean, error = mean_and_error(lambda d, r: function(d, r, "expected"))
    np.testing.assert_array_less(np.abs(mean - d), 5 * error + 1e-6)
    # Without rescaling the same test sees the bias.
    d, mean, error = mean_and_error(lambda d, r: function(d, r, "none"))
    assert (np.abs(mean - d) > 5 * error).all()


def test_keep_probability_rises_with_the_rank_within_a_row():
    d = delta()
    p = keep_probability(d, 0.5, 0.4)
    np.testing.assert_allclose(p.mean(1), 0.5, rtol=1e-6)
    np.testing.assert_allclose((p.min(), p.max()), (0.3, 0.7), rtol=1e-6)
    rows = np.argsort(np.abs(d), axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(p, rows, 1), axis=1) > 0).all()
    np.testing.assert_array_equal(keep_probability(d, 0.5, 0.0), np.full(SIZE, 0.5))
    np.testing.assert_array_equal(keep_probability(d[:, :1, None], 0.5, 0.4), np.full((200, 1, 1), 0.5))


def test_magprune_keeps_more_of_the_large():
    d = delta()
    kept = magprune(d, 0.5, 0.8, np.random.default_rng(1))
    mask = kept != 0
    assert mask.mean() == pytest.approx(0.5, abs=0.01)
    order = np.argsort(np.abs(d), axis=1, kind="stable")
    ranked = np.take_along_axis(mask, order, 1)
    assert ranked[:, :100].mean() == pytest.approx(0.1 + 0.8 / 6, abs=0.02)
    assert ranked[:, -100:].mean() == pytest.approx(0.9 - 0.8 / 6, abs=0.02)
    p = keep_probability(d, 0.5, 0.8)
    np.testing.assert_allclose(kept[mask], (d / p)[mask], rtol=1e-5)


def test_density_one_is_the_method_without_masks():
    base, models = leaves()
    weights, ones = (0.5, 0.2, 0.9), (1.0,) * 3
    plain = task_arithmetic(base, models, weights, scale=0.5)
    np.testing.assert_array_equal(dare_linear(base, models, weights, ones, generators(), scale=0.5), plain)
    np.testing.assert_array_equal(della_linear(base, models, weights, ones, ones, generators(), scale=0.5), plain)
    for normalize in (True, False):
        plain = ties(base, models, weights, ones, normalize=normalize)
        found = dare_ties(base, models, weights, ones, generators(), normalize=normalize)
        np.testing.assert_array_equal(found, plain)
        found = della(base, models, weights, ones, ones, generators(), normalize=normalize)
        np.testing.assert_array_equal(found, plain)


def test_the_election_sees_the_dropped_vectors():
    base, models = leaves(shape=SIZE)
    found = dare_ties(base, models, (1.0,) * 3, (DENSITY,) * 3, generators())
    kept = [drop(m - base, DENSITY, generators()(i)) for i, m in enumerate(models)]
    positive = sum(kept) >= 0
    expected = base + sum(np.where((k > 0) == positive, k, 0) * (k != 0) for k in kept)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_masks_depend_on_seed_leaf_and_model_alone():
    draws = {
        (seed, name, model): generator(seed, name, model).random(8).tobytes()
        for seed in (0, 1)
        for name in ("a/w", "b/w")
        for model in (0, 1)
    }
    assert len(set(draws.values())) == 8
    assert generator(1, "a/w", 1).random(8).tobytes() == draws[1, "a/w", 1]
