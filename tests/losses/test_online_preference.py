"""Online DPO, XPO, Nash-MD, and the divergence of on-policy GKD, against float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import EXTREME, check_extreme, quad, sp
from losses.rollout_arrays import MASK, NEW, REF, RNG, N, T, program, slopes, spoiled

from jaxpo import losses

WINS = np.array([True, False, False, True, True, False])
P = np.array([0.9, 0.2, 0.5, 1.0, 0.0])


def online_dpo(p1, p2, r1, r2, wins, beta=0.1, loss_type="sigmoid"):
    h = np.where(wins, 1, -1) * ((p1 - r1) - (p2 - r2))
    return sp(-beta * h) if loss_type == "sigmoid" else (h - 1 / (2 * beta)) ** 2


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.03])
def test_pairs_that_a_judge_ordered(loss_type, alpha):
    settings = {"beta": 0.3, "loss_type": loss_type}
    name, more = ("online_dpo", {}) if alpha is None else ("xpo", {"alpha": alpha})
    args = tuple(np.float64(x) for x in quad())

    def reference(p1, p2, r1, r2):
        return online_dpo(p1, p2, r1, r2, WINS, **settings) + (alpha or 0.0) * p2

    loss = functools.partial(getattr(losses, name), **settings, **more)
    for i in range(2):

        def first(x, i=i):
            return reference(*(x if j == i else a for j, a in enumerate(args)))

        def moved(x, *a, i=i):
            rest = list(a[:3])
            return loss(*(x if j == i else rest.pop(0) for j in range(4)), a[3])

        terms, grad = program(moved)(args[i], *(a for j, a in enumerate(args) if j != i), WINS)
        np.testing.assert_allclose(terms, first(args[i]), rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(grad, slopes(first, args[i]), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_xpo_without_its_bonus_is_online_dpo(loss_type):
    args = (*quad(), WINS)
    without = losses.xpo(*args, alpha=0.0, loss_type=loss_type)
    np.testing.assert_array_equal(without, losses.online_dpo(*args, loss_type=loss_type))


def test_the_order_of_the_two_answers_does_not_matter():
    p1, p2, r1, r2 = quad()
    swapped = losses.online_dpo(p2, p1, r2, r1, ~WINS)
    np.testing.assert_array_equal(losses.online_dpo(p1, p2, r1, r2, WINS), swapped)
    np.testing.assert_array_equal(losses.online_dpo(p1, p2, r1, r2, np.ones(6, bool)), losses.dpo(p1, p2, r1, r2))


@pytest.mark.parametrize("name", ["online_dpo", "xpo"])
def test_extremes_absent_pairs_and_unknown_losses(name):
    loss = getattr(losses, name)
    wins = np.array([True, False, True, False])
    check_extreme(lambda *a: loss(*a, wins), EXTREME, range(4))
    where = np.array([True, False, True, True, False, True])
    broken = [np.where(where, x, by) for x, by in zip(quad(), (np.nan, np.inf, np.nan, -np.inf), strict=True)]

    def some(x, *a):
        return loss(x, *a, where=where)

    terms, grad = program(some)(*broken, WINS)
    whole, slope = program(loss)(*quad(), WINS)
    np.testing.assert_allclose(terms[where], whole[where], rtol=1e-6)
    np.testing.assert_allclose(grad[where], slope[where], rtol=1e-6)
    assert np.all(terms[~where] == 0)
    assert np.all(grad[~where] == 0)
    with pytest.raises(ValueError, match="loss_type 'hinge'"):
        loss(*quad(), WINS, loss_type="hinge")


# --- Nash-MD ---


def test_nash_md_value_and_gradient():
    loss = functools.partial(losses.nash_md, beta=0.3)
    for by in (np.nan, np.inf):
        terms, grad = program(lambda new, ref, p, mask: loss(new, ref, p, mask))(
            spoiled(NEW, by=by), spoiled(REF, by=-by), P, MASK
        )
        weight = 0.3 * (NEW - REF) - (P - 0.5)[:, None]
        np.testing.assert_allclose(terms, np.where(MASK, weight * NEW, 0.0).sum(1), rtol=2e-5, atol=2e-6)
        reference = lambda new: np.where(MASK, weight * new, 0.0)  # noqa: E731 - the weight is held
        np.testing.assert_allclose(grad, slopes(reference, NEW), rtol=2e-4, atol=1e-5)


def test_nash_md_rests_at_the_reference_when_neither_wins():
    _, grad = program(losses.nash_md)(REF, REF, np.full(N, 0.5), MASK)
    np.testing.assert_array_equal(grad, 0.0)


def test_nash_md_far_from_the_reference_and_without_an_answer():
    loss = functools.partial(losses.nash_md, where=np.array([True, False, True, True, False]))
    for size in (50.0, -50.0, 1e4):
        terms, grad = program(loss)(REF + size, REF, np.where([1, 0, 1, 1, 0], P, np.nan), MASK)
        assert np.all(np.isfinite(terms))
        assert np.all(np.isfinite(grad))
        assert terms[1] == 0
        assert np.all(grad[1] == 0)


def test_nash_mds_gradient_in_expectation_of_one_token_answers():
    """E_pi[(beta (log pi - log ref) - (P - 1/2)) grad log pi] = grad(beta KL - E P), by enumeration."""
    z, zr, wins = (np.random.default_rng(s).standard_normal(6) for s in (5, 6, 7))
    wins = 1 / (1 + np.exp(-wins))
    log_r = zr - np.log(np.exp(zr).sum())

    def exact(z):
        log_p = z - np.log(np.exp(z).sum())
        return np.sum(np.exp(log_p) * (0.3 * (log_p - log_r) - wins))

    weight = np.exp(z) / np.exp(z).sum()

    def estimate(z):
        loss = losses.nash_md(jax.nn.log_softmax(z)[:, None], log_r[:, None], wins, np.ones((6, 1), bool), beta=0.3)
        return jnp.sum(jnp.float32(weight) * loss)

    np.testing.assert_allclose(jax.grad(estimate)(jnp.float32(z)), slopes(exact, z), rtol=1e-4, atol=2e-6)


# --- on-policy GKD: the divergence is `generalized_jsd` ---


def test_the_jsd_at_one_half_is_symmetric_and_at_most_log_2():
    s, t = (3 * RNG.standard_normal((N * T, 9)) for _ in range(2))
    there = losses.generalized_jsd(jnp.float32(s), jnp.float32(t))
    np.testing.assert_allclose(there, losses.generalized_jsd(jnp.float32(t), jnp.float32(s)), rtol=1e-4, atol=1e-6)
    assert np.all((there >= 0) & (there <= np.log(2) + 1e-6))
