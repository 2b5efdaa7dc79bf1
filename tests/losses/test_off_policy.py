"""Corrections for the writer of an answer, and the filter by entropy, against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.rollout_arrays import LENGTH, MASK, NEW, OLD, RNG, A, N, T, ratio, single, spoiled

from jaxpo import losses

SAMPLER = OLD + 0.4 * RNG.standard_normal((N, T))
ENTROPY = RNG.gamma(2.0, 1.0, (N, T))


def log_ratio():
    return np.where(MASK, OLD - SAMPLER, 0.0)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize("band", [(None, 1.3), (0.8, 1.3), (0.8, None)])
def test_weights(level, mode, band):
    low, high = band
    d = log_ratio()
    w = np.exp(d if level == "token" else np.repeat(d.sum(1, keepdims=True), T, axis=1))
    bounds = (0.0 if low is None else low, np.inf if high is None else high)
    inside = (w >= bounds[0]) & (w <= bounds[1])
    expected = np.where(MASK, np.clip(w, *bounds) if mode == "truncate" else w * inside, 0.0)
    assert np.any(~inside & MASK)
    arrays = single(spoiled(OLD), spoiled(SAMPLER, by=np.inf))
    got = losses.off_policy_weights(*arrays, MASK, level=level, mode=mode, low=low, high=high)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_the_same_sampler_needs_no_correction():
    for function in (losses.off_policy_weights, losses.geometric_mask):
        np.testing.assert_array_equal(function(*single(OLD, OLD), MASK), MASK)


def test_the_geometric_mask_is_one_of_answers_whose_mean_is_near():
    mean = np.exp(log_ratio().sum(1) / LENGTH)
    low, high = np.sort(mean)[1] - 1e-3, np.sort(mean)[3] + 1e-3
    got = losses.geometric_mask(*single(spoiled(OLD), spoiled(SAMPLER)), MASK, low=low, high=high)
    kept = (mean >= low) & (mean <= high)
    assert 0 < kept.sum() < N
    np.testing.assert_array_equal(got, MASK & kept[:, None])


def test_a_long_answer_is_not_thrown_out_for_its_length():
    """The product leaves the band as the answer grows, the geometric mean does not."""
    long, drift = np.ones((1, 200), bool), np.full((1, 200), 0.009)
    assert np.all(losses.geometric_mask(drift, 0 * drift, long) == 1)
    assert np.all(losses.off_policy_weights(drift, 0 * drift, long, high=3.0) == 0)


def test_answers_that_the_policy_has_left_are_masked_where_the_advantage_is_negative():
    lost = -np.where(MASK, NEW - OLD, 0.0).sum(1) / LENGTH
    threshold = np.sort(lost)[2]
    got = losses.off_policy_mask(*single(spoiled(NEW), spoiled(OLD), spoiled(A)), MASK, threshold=threshold + 1e-4)
    expected = MASK & ((A >= 0) | (lost <= threshold + 1e-4)[:, None])
    assert expected.sum() < MASK.sum()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_far_apart_is_finite(size):
    for sign in (1, -1):
        for level in ("token", "sequence"):
            for mode in ("truncate", "mask"):
                got = losses.off_policy_weights(*single(OLD + sign * size, OLD), MASK, level=level, mode=mode)
                assert np.all(np.isfinite(got))


def test_weights_take_no_gradient():
    def total(old, drawn, a):
        weights = losses.off_policy_weights(old, drawn, MASK, mode="truncate", high=9.0)
        kept = losses.geometric_mask(old, drawn, MASK) + losses.off_policy_mask(old, drawn, a, MASK, threshold=0.1)
        return jnp.sum(weights + kept)

    for grad in jax.grad(total, argnums=(0, 1, 2))(*single(OLD, SAMPLER, A)):
        np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("setting", ["level", "mode"])
def test_an_unknown_setting_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} 'none'"):
        losses.off_policy_weights(OLD, SAMPLER, MASK, **{setting: "none"})


# --- the filter by entropy ---


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_highest_entropy_is_kept(share):
    inside = ENTROPY[MASK]
    for arrays in ((spoiled(ENTROPY), MASK), (jnp.float32(spoiled(ENTROPY)), jnp.asarray(MASK))):
        threshold = losses.entropy_threshold(*arrays, top_entropy_quantile=share)
        np.testing.assert_allclose(threshold, np.quantile(inside, 1 - share), rtol=1e-6)
        kept = np.asarray(losses.top_entropy_mask(*arrays, threshold))
        assert kept.sum() == max(1, np.ceil((inside.size - 1) * share + 1e-9) if share < 1 else inside.size)
        assert not np.any(kept & ~MASK)
        assert ENTROPY[kept].min() >= ENTROPY[MASK & ~kept].max(initial=-1)


def test_the_filter_depends_on_how_a_step_is_cut_unless_the_threshold_is_the_steps():
    whole = losses.entropy_threshold(ENTROPY, MASK, top_entropy_quantile=0.3)
    kept = losses.top_entropy_mask(ENTROPY, MASK, whole)
    parts = [losses.top_entropy_mask(ENTROPY[p], MASK[p], whole) for p in (slice(0, 2), slice(2, N))]
    np.testing.assert_array_equal(np.concatenate(parts), kept)
    own = [losses.entropy_threshold(ENTROPY[p], MASK[p], top_entropy_quantile=0.3) for p in (slice(0, 2), slice(2, N))]
    assert abs(own[0] - own[1]) > 1e-3


def test_no_token_keeps_none_and_a_share_above_one_is_refused():
    none = np.zeros((N, T), bool)
    with pytest.warns(RuntimeWarning):
        threshold = losses.entropy_threshold(ENTROPY, none, top_entropy_quantile=0.2)
    assert not np.any(losses.top_entropy_mask(ENTROPY, none, threshold))
    with pytest.raises(ValueError, match=r"top_entropy_quantile 1\.2"):
        losses.entropy_threshold(ENTROPY, MASK, top_entropy_quantile=1.2)


def test_ratios_of_the_oracle_and_the_house():
    from jaxpo.losses.importance import log_ratios

    for level in ("token", "sequence"):
        got = log_ratios(*single(spoiled(NEW), spoiled(OLD)), MASK, level=level)
        np.testing.assert_allclose(np.exp(got)[MASK], ratio(NEW, OLD, level)[MASK], rtol=2e-5)
