"""DRPO and DisCO against loops in float64 numpy written from their equations, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import numeric_gradient
from losses.rollout_arrays import MASK, NEW, OLD, program, slopes, spoiled

from jaxpo import losses

# Question 7 has three right and three wrong answers, 2 only right ones, 4 only wrong ones, 9 a reward of another kind;
# the answers of a question do not lie side by side.
GROUPS = np.int32([7, 2, 7, 4, 7, 2, 7, 9, 7, 4, 7, 9, 9])
REWARDS = np.float32([1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0.5, 0])
LENGTHS = np.float32([100, 40, 300, 900, 200, 90, 900, 10, 20, 30, 500, 60, 70])
SCORES = -np.random.default_rng(3).gamma(2.0, 0.6, len(GROUPS))
LONGEST = 1000.0


def reference(s, rewards=REWARDS, lengths=LENGTHS, groups=GROUPS, lam=0.1, tau=10.0, longest=LONGEST):
    """-J_q of every question, by loops."""
    found = {}
    for q in sorted(set(groups.tolist())):
        right = [i for i in range(len(s)) if groups[i] == q and rewards[i] == 1]
        wrong = [i for i in range(len(s)) if groups[i] == q and rewards[i] == 0]
        if not right or not wrong:
            found[q] = 0.0
            continue
        r = np.array([1 - lengths[i] / longest for i in right], np.float64)
        w = np.ones(len(right)) if lam is None else np.exp((r - r.max()) / lam)
        w = w / w.sum()
        top = max(s[j] for j in wrong)
        mean = sum(np.exp((s[j] - top) / tau) for j in wrong) / len(wrong)
        found[q] = -(sum(a * s[i] for a, i in zip(w, right, strict=True)) - (top + tau * np.log(mean)))
    return np.array(list(found.values()))


@functools.cache
def compiled(**settings):
    def run(s, rewards, lengths, groups, where):
        terms = lambda s: losses.drpo(s, rewards, lengths, groups, longest=LONGEST, where=where, **settings)  # noqa: E731
        return terms(s), jax.grad(lambda s: jnp.sum(terms(s)))(s)

    return jax.jit(run)


def drpo(s=SCORES, rewards=REWARDS, lengths=LENGTHS, groups=GROUPS, where=None, **settings):
    where = np.ones(len(s), bool) if where is None else where
    value, grad = compiled(**settings)(jnp.float32(s), jnp.float32(rewards), jnp.float32(lengths), groups, where)
    return np.asarray(value), np.asarray(grad)


@pytest.mark.parametrize("settings", [{}, {"lam": 0.5, "tau": 0.3}, {"lam": None, "tau": 2.0}])
def test_value_and_gradient_are_those_of_the_equations(settings):
    value, grad = drpo(**settings)
    by_question = [value[q == GROUPS].sum() for q in sorted(set(GROUPS.tolist()))]
    np.testing.assert_allclose(by_question, reference(SCORES, **settings), rtol=2e-5, atol=1e-6)
    exact = numeric_gradient(functools.partial(reference, **settings), (SCORES,), 0)
    np.testing.assert_allclose(grad, exact, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_weights_and_sum_to_zero_in_a_question():
    _, grad = drpo(tau=0.7)
    own = GROUPS == 7
    right, wrong = own & (REWARDS == 1), own & (REWARDS == 0)
    w = np.exp(-LENGTHS[right] / (0.1 * LONGEST))
    np.testing.assert_allclose(grad[right], -w / w.sum(), rtol=1e-5, atol=1e-9)
    p = np.exp(SCORES[wrong] / 0.7)
    np.testing.assert_allclose(grad[wrong], p / p.sum(), rtol=1e-5)
    for q in set(GROUPS.tolist()):
        assert abs(grad[q == GROUPS].sum()) < 1e-6
    assert np.all(grad[REWARDS == 1] <= 0), "no right answer is ever pushed down"


def test_all_right_all_wrong_and_other_rewards_teach_nothing():
    value, grad = drpo()
    for q in (2, 4):
        assert not value[q == GROUPS].any()
        assert not grad[q == GROUPS].any()
    other = REWARDS == 0.5
    assert not value[other].any()
    assert not grad[other].any()


def test_without_pressure_or_at_equal_lengths_it_is_disco():
    equal = np.full_like(LENGTHS, 77)
    for a, b in zip(drpo(lengths=equal), drpo(lam=None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    wide = drpo(lam=1e7)
    np.testing.assert_allclose(wide[1], drpo(lam=None)[1], rtol=1e-4, atol=1e-6)


def test_weights_depend_on_differences_of_length_over_c_and_lam_alone():
    base = drpo()[1]
    np.testing.assert_allclose(drpo(lengths=LENGTHS + 50)[1], base, rtol=1e-4, atol=1e-7)
    halved = drpo(lengths=2 * LENGTHS, lam=0.2)[1]
    np.testing.assert_allclose(halved, base, rtol=1e-4, atol=1e-7)


def test_limits_of_tau():
    own = GROUPS == 7
    wrong = np.flatnonzero(own & (REWARDS == 0))
    cold = drpo(tau=1e-3)[1]
    top = wrong[np.argmax(SCORES[wrong])]
    np.testing.assert_allclose(cold[wrong], (wrong == top).astype(float), atol=1e-6)
    warm = drpo(tau=1e5)[1]
    np.testing.assert_allclose(warm[wrong], 1 / len(wrong), rtol=1e-4)


def test_where_grpo_turns_a_right_answer_into_a_bad_one_it_does_not():
    """The paper's example: three right answers of 100, 200 and 900 tokens, and three wrong ones."""
    lengths, right = np.array([100.0, 200.0, 900.0, 500.0, 500.0, 500.0]), np.array([1.0, 1, 1, 0, 0, 0])
    penalised = right * (1 - lengths / LONGEST)
    assert (penalised - penalised.mean())[2] < 0
    _, grad = drpo(np.zeros(6), right, lengths, np.zeros(6, np.int32))
    assert np.all(grad[:3] < 0)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_far_scores_and_absent_answers_are_finite(size):
    where = np.arange(len(GROUPS)) % 4 > 0
    s = np.where(where, SCORES + size * (np.arange(len(GROUPS)) % 2), np.nan)
    value, grad = drpo(s, np.where(where, REWARDS, np.nan), np.where(where, LENGTHS, np.inf), where=where)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(grad))
    assert not grad[~where].any()
    held = reference(s[where], REWARDS[where], LENGTHS[where], GROUPS[where])
    assert value.sum() == pytest.approx(held.sum(), rel=1e-4)


def ratios(new, old):
    w = np.exp(np.where(MASK, new - old, 0))
    return np.array([w[n][MASK[n]].mean() if MASK[n].any() else 0.0 for n in range(len(MASK))])


def likelihoods(new, old):
    return np.array([new[n][MASK[n]].mean() if MASK[n].any() else 0.0 for n in range(len(MASK))])


SCORED = {"likelihood_ratio": ratios, "log_likelihood": likelihoods}


@pytest.mark.parametrize("score", SCORED)
def test_scores_are_means_over_the_tokens_of_an_answer(score):
    run = program(functools.partial(losses.drpo_scores, score=score))
    value, grad = run(spoiled(NEW), spoiled(OLD), MASK)
    np.testing.assert_allclose(value, SCORED[score](NEW, OLD), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(grad, slopes(lambda new: SCORED[score](new, OLD), NEW), rtol=2e-4, atol=1e-5)
    assert not grad[~MASK].any()
    at_old, slope = run(spoiled(OLD), spoiled(OLD), MASK)
    if score == "likelihood_ratio":
        np.testing.assert_allclose(at_old, MASK.any(1))
    np.testing.assert_allclose(slope, np.where(MASK, 1 / np.maximum(MASK.sum(1), 1)[:, None], 0), rtol=1e-5)


def test_the_trust_region_is_flat_within_and_a_parabola_beyond():
    region = lambda kl: losses.drpo_trust_region(kl, delta=0.01, penalty=100.0)  # noqa: E731
    kl = np.float32([-0.5, 0.0, 0.01, 0.02, 0.5])
    np.testing.assert_allclose(region(kl), 50 * np.maximum(kl - 0.01, 0) ** 2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(jax.grad(region))(kl), 100 * np.maximum(kl - 0.01, 0), rtol=1e-4, atol=1e-6)
