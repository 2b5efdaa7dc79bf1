"""VPO against its equations in float64, and every property that the specification lists."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, numeric_gradient, quad, sp, value_and_grads

from jaxpo import losses

PAIR, CALIBRATION = quad(0), quad(1)[:2]
ALL = (*PAIR, *CALIBRATION)
BETA = 0.3


def terms(sign, alpha, p_w, p_l, r_w, r_l, p_c, r_c):
    p_w, p_l, r_w, r_l, p_c, r_c = (np.asarray(x, np.float64) for x in (p_w, p_l, r_w, r_l, p_c, r_c))
    return sp(-BETA * ((p_w - r_w) - (p_l - r_l))), sign * alpha * BETA * (p_c - r_c)


@functools.partial(jax.jit, static_argnames=("form", "alpha"))
def vpo(*arrays, form="offline", alpha=0.2):
    return losses.vpo(*arrays, form=form, beta=BETA, alpha=alpha)


@pytest.mark.parametrize(("form", "sign"), [("online", 1), ("offline", -1)])
def test_the_loss_is_its_equations(form, sign):
    check_against(
        lambda *a: sum(losses.vpo(*a, form=form, beta=BETA, alpha=0.2)),
        lambda *a: sum(terms(sign, 0.2, *a)), ALL, (0, 1, 4),
    )  # fmt: skip
    _, (calibration,) = value_and_grads(lambda *a: sum(vpo(*a, form=form)), ALL, (4,))
    np.testing.assert_allclose(calibration, sign * 0.2 * BETA, rtol=1e-6)  # whatever the data term is


def test_pairs_and_calibration_responses_may_differ_in_number():
    pair, value = losses.vpo(*PAIR, *(x[:2] for x in CALIBRATION), beta=BETA)
    assert pair.shape == (6,)
    assert value.shape == (2,)
    np.testing.assert_allclose(value, terms(-1, 0.1, *PAIR, *CALIBRATION)[1][:2], rtol=1e-5)
    online = losses.vpo(*PAIR, *CALIBRATION, form="online", beta=BETA)[1]
    np.testing.assert_allclose(online, terms(1, 0.01, *PAIR, *CALIBRATION)[1], rtol=1e-5)


def test_without_a_weight_it_is_dpo_and_both_forms_add_up_to_two_of_it():
    dpo = losses.dpo(*PAIR, beta=BETA)
    for form in ("online", "offline"):
        pair, value = vpo(*ALL, form=form, alpha=0.0)
        np.testing.assert_allclose(pair, dpo, rtol=1e-6)
        np.testing.assert_array_equal(value, 0.0)
    both = sum(jnp.mean(x) for form in ("online", "offline") for x in vpo(*ALL, form=form))
    np.testing.assert_allclose(both, 2 * jnp.mean(dpo), rtol=1e-6)


def test_it_is_xpo_with_responses_of_the_reference_up_to_a_constant():
    own, other, ref_own, ref_other = PAIR
    alpha = 0.4
    xpo = losses.xpo(own, other, ref_own, ref_other, np.ones(6, bool), alpha=alpha, beta=BETA)
    pair, value = losses.vpo(*PAIR, other, ref_other, form="online", beta=BETA, alpha=alpha / BETA)
    np.testing.assert_allclose(xpo - (pair + value), alpha * ref_other, rtol=1e-4, atol=1e-4)


def world(seed):
    """log ref, log cal, r with mean 0 under cal, and the policy that is optimal for r, over seven responses."""
    rng = np.random.default_rng(seed)
    ref, cal = (np.log(rng.dirichlet(np.ones(7))) for _ in range(2))
    reward = rng.standard_normal(7)
    reward -= np.exp(cal) @ reward
    pi = ref + reward / BETA
    return ref, cal, reward, pi - np.logaddexp.reduce(pi)


@pytest.mark.parametrize(("form", "sign"), [("online", 1), ("offline", -1)])
def test_reward_side_and_policy_side_are_one_objective(form, sign):
    ref, cal, reward, pi = world(0)
    rng = np.random.default_rng(1)
    w, l, alpha = rng.integers(0, 7, 9), rng.integers(0, 7, 9), 0.3  # noqa: E741
    best_value = BETA * np.logaddexp.reduce(ref + reward / BETA)
    of_reward = sp(-(reward[w] - reward[l])).mean() - sign * alpha * best_value
    pair, value = losses.vpo(pi[w], pi[l], ref[w], ref[l], pi, ref, form=form, beta=BETA, alpha=alpha)
    assert float(jnp.mean(pair) + jnp.exp(cal) @ value) == pytest.approx(of_reward, abs=1e-5)


def test_with_the_reference_as_calibration_the_value_is_its_kl():
    ref, _, _, pi = world(2)
    _, value = losses.vpo(*PAIR, pi, ref, form="online", beta=BETA, alpha=0.3)
    kl = np.sum(np.exp(ref) * (ref - pi))
    assert float(jnp.exp(ref) @ value) == pytest.approx(-0.3 * BETA * kl, rel=1e-5)


def test_gradients_are_finite_differences_for_the_mean_over_both():
    def reference(*a):
        pair, value = terms(1, 0.2, *a)
        return pair / 6 + value / 6

    value, grads = value_and_grads(lambda *a: sum(vpo(*a, form="online")) / 6, ALL, (0, 4))
    np.testing.assert_allclose(value, reference(*ALL), rtol=2e-5)
    for i, grad in zip((0, 4), grads, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(reference, ALL, i), rtol=1e-4, atol=1e-6)
