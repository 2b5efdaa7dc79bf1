"""INPO and its game against their equations in float64, and every property that the specification lists."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, logps, quad

from jaxpo import losses

SIX = (*quad(0), *quad(1)[:2])
ETA, TAU = 0.7, 0.3


def h(p_w, p_l, r_w, r_l, q_w, q_l, eta=ETA, tau=TAU):
    p_w, p_l, r_w, r_l, q_w, q_l = (np.asarray(x, np.float64) for x in (p_w, p_l, r_w, r_l, q_w, q_l))
    return (p_w - p_l) - tau / eta * (r_w - r_l) - (1 - tau / eta) * (q_w - q_l)


@functools.partial(jax.jit, static_argnames=("eta", "tau"))
def inpo(*arrays, eta=ETA, tau=TAU):
    return losses.inpo(*arrays, eta=eta, tau=tau)


def test_the_loss_is_its_equation_and_its_gradient_that_of_the_specification():
    reference = lambda *a: (h(*a) - 1 / (2 * ETA)) ** 2  # noqa: E731
    _, grads = check_against(inpo, reference, SIX, (0, 1), rtol=1e-4, atol=1e-4)
    slope = 2 * (h(*SIX) - 1 / (2 * ETA))
    np.testing.assert_allclose(grads[0], slope, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grads[1], -slope, rtol=1e-4, atol=1e-4)


def test_without_a_tau_it_is_a_third_of_eta():
    np.testing.assert_allclose(inpo(*SIX, tau=None), inpo(*SIX, tau=ETA / 3), rtol=1e-5)


def test_it_is_ipo_where_the_last_iterate_drops_out():
    p_w, p_l, r_w, r_l = SIX[:4]
    expected = losses.ipo_sum(p_w, p_l, r_w, r_l, beta=ETA)
    np.testing.assert_allclose(inpo(*SIX, tau=ETA), expected, rtol=1e-5)
    for tau in (0.1, 0.5):  # the first round: the last iterate is the reference
        np.testing.assert_allclose(inpo(p_w, p_l, r_w, r_l, r_w, r_l, tau=tau), expected, rtol=1e-4)


def test_a_swap_turns_the_sign_and_a_constant_of_a_pair_changes_nothing():
    p_w, p_l, r_w, r_l, q_w, q_l = SIX
    swapped = inpo(p_l, p_w, r_l, r_w, q_l, q_w)
    np.testing.assert_allclose(swapped, (-h(*SIX) - 1 / (2 * ETA)) ** 2, rtol=1e-4)
    np.testing.assert_allclose(inpo(p_w + 3, p_l + 3, r_w, r_l, q_w, q_l), inpo(*SIX), rtol=1e-4, atol=1e-4)


def table(seed, n=5):
    upper = np.triu(np.random.default_rng(seed).uniform(0, 1, (n, n)), 1)
    return upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(n)


def policy(seed, n=5):
    x = logps(np.random.default_rng(seed), n, scale=1.0, mean=0.0).astype(np.float64)
    return x - np.logaddexp.reduce(x)


def test_the_closed_form_has_the_margins_of_the_win_rates_and_minimises_the_population_loss():
    p, before, ref = table(0), policy(1), policy(2)
    best = np.asarray(losses.mirror_step(before, ref, p, eta=ETA, tau=TAU), np.float64)
    wins = p @ np.exp(before)
    log = wins / ETA + TAU / ETA * ref + (1 - TAU / ETA) * before
    np.testing.assert_allclose(best, log - np.logaddexp.reduce(log), atol=1e-5)
    i, j = (x.ravel() for x in np.indices((5, 5)))
    margins = h(best[i], best[j], ref[i], ref[j], before[i], before[j])
    np.testing.assert_allclose(margins, (wins[i] - wins[j]) / ETA, atol=1e-4)

    def population(z):
        """Over both responses of the last iterate, whichever wins."""
        each = [
            losses.inpo(*(jnp.asarray(x)[s] for x in (z, ref, before) for s in (w, l)), eta=ETA, tau=TAU)
            for w, l in ((i, j), (j, i))  # noqa: E741
        ]
        weight = jnp.exp(before[i] + before[j])
        return jnp.sum(weight * (p[i, j] * each[0] + p[j, i] * each[1]))

    np.testing.assert_allclose(jax.grad(population)(jnp.asarray(best)), 0.0, atol=1e-5)


def gap(pi, ref, p, tau):
    """By the definition, with best responses in closed form: max over p of J(p, pi), less min over q of J(pi, q)."""

    def value(a, b):
        kl = lambda x: np.sum(np.exp(x) * (x - ref))  # noqa: E731
        return np.exp(a) @ p @ np.exp(b) - tau * kl(a) + tau * kl(b)

    answer = ref + p @ np.exp(pi) / tau
    answer = answer - np.logaddexp.reduce(answer)
    return value(answer, pi) - value(pi, answer)


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_is_that_of_the_best_responses(seed):
    p, pi, ref = table(seed), policy(seed + 1), policy(seed + 2)
    found = float(losses.duality_gap(pi, ref, p, tau=TAU))
    assert found == pytest.approx(gap(pi, ref, p, TAU), abs=1e-5)
    assert found >= -1e-6


def test_mirror_descent_comes_to_rest_where_the_gap_is_zero_and_contracts_on_the_way():
    p, ref = table(3), policy(4)
    eta, tau = 4.0, 0.3
    run = jax.jit(lambda pi: losses.mirror_step(pi, ref, p, eta=eta, tau=tau))
    path = [jnp.asarray(ref)]
    for _ in range(400):
        path.append(run(path[-1]))
    nash = np.asarray(path[-1], np.float64)
    assert float(losses.duality_gap(nash, ref, p, tau=tau)) == pytest.approx(0.0, abs=1e-5)
    assert float(losses.duality_gap(ref, ref, p, tau=tau)) > 1e-2
    bound = max(np.max(np.abs(np.asarray(x) - ref)) for x in path)
    c = max(bound * tau, 1.0)
    kl = [float(np.sum(np.exp(nash) * (nash - np.asarray(x)))) for x in path[:40]]
    for before, after in itertools.pairwise(kl):
        assert after <= (1 - tau / eta) * before + 8 * c**2 / eta**2 + 1e-6


def test_on_rock_paper_scissors_the_uniform_policy_is_at_rest():
    p = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    uniform = np.full(3, -np.log(3.0))
    np.testing.assert_allclose(losses.mirror_step(uniform, uniform, p, eta=1.0, tau=0.5), uniform, atol=1e-6)
    assert float(losses.duality_gap(uniform, uniform, p, tau=0.5)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.duality_gap(np.log([0.6, 0.2, 0.2]), uniform, p, tau=0.5)) > 0.01
