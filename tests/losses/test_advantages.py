"""What advantages are made of: sums from the end, GAE, whitening, REINFORCE++, MiniLLM; numpy and jax alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.rollout_arrays import MASK, NEW, OLD, PER_ANSWER, REF, RNG, N, T, spoiled

from jaxpo import losses

REWARDS, VALUES = RNG.standard_normal((N, T)), RNG.standard_normal((N, T))
GROUPS = np.array([7, 7, 3, 3, 9])


def both(function, *arrays, **settings):
    """The float64 result on numpy, after jax's was found equal to it and of float32."""
    exact = function(*arrays, **settings)
    cast = [jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else None) for a in arrays]
    got = jax.jit(lambda *a: function(*a, **settings))(*cast)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(got), strict=True):
        assert a.dtype == np.float64
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, rtol=3e-5, atol=3e-6)
    return exact


def backwards(rewards, values, mask, gamma, lam):
    """The recursion as it is written, answer by answer."""
    advantage, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    for n, row in enumerate(mask):
        after, following = 0.0, 0.0
        for t in reversed(np.flatnonzero(row)):
            delta = rewards[n, t] + gamma * following - values[n, t]
            after = delta + gamma * lam * after
            following = values[n, t]
            advantage[n, t], returns[n, t] = after, after + values[n, t]
    return advantage, returns


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_its_recursion(gamma, lam):
    got = both(losses.gae, spoiled(REWARDS), spoiled(VALUES, by=np.inf), MASK, gamma=gamma, lam=lam)
    for a, b in zip(got, backwards(REWARDS, VALUES, MASK, gamma, lam), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 33), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_gae_of_any_length_and_any_gaps(length, gamma, lam, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((2, length)) < 0.7
    r, v = rng.standard_normal((2, 2, length))
    for a, b in zip(losses.gae(r, v, mask, gamma=gamma, lam=lam), backwards(r, v, mask, gamma, lam), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_gae_one_one_returns_the_rewards_to_go_whatever_the_critic_says():
    for values in (VALUES, 100 * VALUES):
        _, returns = losses.gae(REWARDS, values, MASK, gamma=1.0, lam=1.0)
        np.testing.assert_allclose(returns, losses.returns_to_go(REWARDS, MASK), atol=1e-10)


def test_gae_without_lambda_is_the_error_of_one_step():
    advantage, _ = losses.gae(REWARDS, VALUES, MASK, gamma=0.9, lam=0.0)
    r, v = REWARDS[2], VALUES[2]  # tokens 0, 1, 4, 5
    expected = [r[0] + 0.9 * v[1] - v[0], r[1] + 0.9 * v[4] - v[1], 0, 0, r[4] + 0.9 * v[5] - v[4], r[5] - v[5]]
    np.testing.assert_allclose(advantage[2], expected, rtol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.7, 0.0])
def test_returns_to_go(gamma):
    got = both(losses.returns_to_go, spoiled(REWARDS), MASK, gamma=gamma)
    np.testing.assert_allclose(got, backwards(REWARDS, 0 * VALUES, MASK, gamma, 1.0)[0], rtol=1e-12, atol=1e-12)


def test_token_rewards_hold_the_score_on_the_last_token_and_the_kl_on_all():
    kl = OLD - REF
    got = both(losses.token_rewards, PER_ANSWER, spoiled(kl), MASK, kl_coef=0.3)
    expected = np.where(MASK, -0.3 * kl, 0.0)
    for n, t in enumerate((5, 2, 5, 1)):  # the last answer has no token
        expected[n, t] += PER_ANSWER[n]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_rewards_less_the_kl_of_the_answer():
    got = both(losses.kl_shaped_rewards, PER_ANSWER, spoiled(OLD), spoiled(REF, by=-np.inf), MASK, beta=0.3)
    np.testing.assert_allclose(got, PER_ANSWER - 0.3 * np.where(MASK, OLD - REF, 0).sum(1), rtol=1e-12)
    whole = losses.token_rewards(PER_ANSWER, OLD - REF, MASK, kl_coef=0.3).sum(1)
    np.testing.assert_allclose(whole[:4], got[:4], rtol=1e-12)  # the same, once by token and once by answer


# --- whitening ---


def test_whitening_is_that_of_what_lies_under_the_mask():
    got = both(losses.whiten, spoiled(3 * REWARDS + 5), MASK)
    inside = (3 * REWARDS + 5)[MASK]
    expected = (inside - inside.mean()) / np.sqrt(inside.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(got[MASK], expected, rtol=1e-10)
    assert np.all(got[~MASK] == 0)
    kept = both(losses.whiten, spoiled(3 * REWARDS + 5), MASK, shift_mean=False)
    np.testing.assert_allclose(kept[MASK], expected + inside.mean(), rtol=1e-10)


def test_whitening_by_the_moments_of_all_parts_is_exact_however_the_step_is_cut():
    whole = losses.whiten(spoiled(REWARDS), MASK)
    for cuts in ([1, 4], [2], [1, 2, 3, 4]):
        parts = list(zip(np.split(spoiled(REWARDS), cuts), np.split(MASK, cuts), strict=True))
        total = losses.masked_moments(*parts[0])
        for part in parts[1:]:
            total = losses.merged_moments(total, losses.masked_moments(*part))
        got = np.concatenate([losses.whiten(*part, total) for part in parts])
        np.testing.assert_allclose(got, whole, rtol=1e-12, atol=1e-14)
        alone = np.concatenate([losses.whiten(*part) for part in parts])
        assert np.max(np.abs(alone - whole)) > 0.1  # what a micro-batch would make of it


def test_whitening_of_one_number_of_equal_ones_and_of_none_is_zero():
    for mask in (np.arange(6) == 2, np.arange(6) < 4, np.zeros(6, bool)):
        got = both(losses.whiten, np.full(6, 2.5), mask)
        np.testing.assert_allclose(got, 0.0, atol=1e-12)


def test_float32_keeps_its_digits_far_from_zero():
    x = 1e4 + REWARDS
    got = jax.jit(losses.whiten)(jnp.float32(x), MASK)
    np.testing.assert_allclose(got, losses.whiten(x, MASK), atol=5e-3)


# --- REINFORCE++ ---


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_plus_plus(gamma):
    got = both(losses.reinforce_plus_plus, spoiled(REWARDS), MASK, gamma=gamma)
    returns = backwards(REWARDS, 0 * VALUES, MASK, gamma, 1.0)[0][MASK]
    np.testing.assert_allclose(got[MASK], (returns - returns.mean()) / returns.std(ddof=1), rtol=1e-6)
    assert np.all(got[~MASK] == 0)


def test_reinforce_plus_plus_with_a_baseline():
    got = both(losses.reinforce_plus_plus_baseline, PER_ANSWER, GROUPS, MASK)
    r = PER_ANSWER
    centred = np.array([r[0] - r[1], r[1] - r[0], r[2] - r[3], r[3] - r[2], 0.0]) / 2
    tokens = np.repeat(centred, MASK.sum(1))
    expected = np.where(MASK, centred[:, None], 0.0) - np.where(MASK, tokens.mean(), 0.0)
    np.testing.assert_allclose(got, expected / tokens.std(ddof=1), rtol=1e-6)


def test_equal_rewards_give_no_advantage():
    score = losses.token_rewards(np.full(N, 0.7), np.zeros((N, T)), MASK)
    np.testing.assert_allclose(losses.reinforce_plus_plus(score, MASK), 0.0, atol=1e-12)
    np.testing.assert_allclose(losses.reinforce_plus_plus_baseline(np.full(N, 0.7), GROUPS, MASK), 0.0, atol=1e-12)


# --- MiniLLM ---


def minillm(gamma, normalised):
    """The double sum, over the answer's own tokens."""
    out = np.zeros((N, T))
    for n in range(N):
        tokens = np.flatnonzero(MASK[n])
        for i, t in enumerate(tokens):
            weights = gamma ** np.arange(len(tokens) - i)
            total = np.sum(weights * (REF - NEW)[n, tokens[i:]])
            out[n, t] = total / weights.sum() if normalised else total
    return out


@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("normalised", [True, False])
def test_minillm(gamma, normalised):
    arrays = (spoiled(NEW), spoiled(REF, by=-np.inf), MASK)
    got = both(losses.minillm_advantages, *arrays, gamma=gamma, length_normalization=normalised)
    np.testing.assert_allclose(got, minillm(gamma, normalised), rtol=1e-10, atol=1e-12)


def test_minillm_where_teacher_and_student_agree_and_at_gamma_zero():
    np.testing.assert_array_equal(losses.minillm_advantages(NEW, NEW, MASK, gamma=0.9), 0.0)
    np.testing.assert_allclose(losses.minillm_advantages(NEW, REF, MASK), np.where(MASK, REF - NEW, 0), rtol=1e-12)


def test_minillms_policy_gradient_and_single_step_term_are_the_reverse_kl():
    """One step: E_S[A grad log S] of the advantages is -grad KL(S || T), by enumeration; the other is it by itself."""
    z, t = (np.random.default_rng(s).standard_normal(6) for s in (3, 4))
    log_s, log_t = (jax.nn.log_softmax(jnp.float32(x)) for x in (z, t))
    one = np.ones((6, 1), bool)
    a = np.asarray(losses.minillm_advantages(np.asarray(log_s)[:, None], np.asarray(log_t)[:, None], one))[:, 0]
    surrogate = jax.grad(lambda z: -jnp.sum(jnp.exp(log_s) * a * jax.nn.log_softmax(z)))(jnp.float32(z))
    whole = jax.grad(lambda z: losses.reverse_kl(z, jnp.float32(t)))(jnp.float32(z))
    np.testing.assert_allclose(surrogate, whole, rtol=1e-4, atol=1e-6)
