"""Flex-DPO, SFT-DPO and the probability-space gradients of 3D-Properties against float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

dpo = jitted(losses.dpo)
dpo3d = jitted(losses.dpo3d)
log_probability_gradients = jitted(losses.log_probability_gradients)
unseen_mass = jitted(losses.unseen_mass)

ALL4 = (0, 1, 2, 3)
SETTINGS = {"beta_plus": 0.3, "beta_minus": 0.2, "sft_weight": 0.05}


def total(*a, **settings):
    return sum(dpo3d(*a, **(SETTINGS | settings)))


def test_value_and_gradient():
    def reference(pw, pl, rw, rl):
        pw = np.asarray(pw, np.float64)
        return sp(-(0.3 * (pw - rw) - 0.2 * (np.asarray(pl, np.float64) - rl))) - 0.05 * pw

    args = quad()
    _, grads = check_against(total, reference, args, ALL4)
    pw, pl, rw, rl = (a.astype(np.float64) for a in args)
    h = 0.3 * (pw - rw) - 0.2 * (pl - rl)
    np.testing.assert_allclose(grads[0], -0.3 * sig(-h) - 0.05, rtol=1e-4)
    np.testing.assert_allclose(grads[1], 0.2 * sig(-h), rtol=1e-4, atol=1e-6)
    check_bfloat16(total, args, ALL4)
    check_vmap(total, args)
    check_extreme(lambda *a: total(*a, beta_plus=1.0, beta_minus=0.5), EXTREME, ALL4)


def test_equal_betas_are_dpo_and_sft_dpo():
    args = quad()
    plain = dpo(*args, beta=0.3)
    np.testing.assert_allclose(total(*args, beta_minus=0.3, sft_weight=0.0), plain, rtol=1e-6)
    sft = total(*args, beta_minus=0.3, sft_weight=0.2)
    np.testing.assert_allclose(sft, np.asarray(plain) - 0.2 * args[0], rtol=1e-5)


def test_the_ratio_of_the_log_space_gradients_is_the_ratio_of_the_betas():
    _, grads = value_and_grads(lambda *a: dpo3d(*a, beta_plus=0.3, beta_minus=0.2)[0], quad(seed=3), (0, 1))
    np.testing.assert_allclose(np.asarray(grads[1]) / grads[0], -0.2 / 0.3, rtol=1e-5)


def test_a_common_shift_moves_flex_dpo_and_not_dpo():
    pw, pl, rw, rl = quad()
    flex = lambda c: dpo3d(pw + c, pl + c, rw, rl, beta_plus=0.3, beta_minus=0.2)[0]  # noqa: E731
    assert np.abs(np.asarray(flex(np.float32(4)) - flex(np.float32(0)))).max() > 0.05
    same = dpo3d(pw + 4, pl + 4, rw, rl, beta_plus=0.3, beta_minus=0.3)[0]
    np.testing.assert_allclose(same, dpo(pw, pl, rw, rl, beta=0.3), rtol=1e-4, atol=1e-5)


def test_probability_gradients_are_the_gradients_in_the_probabilities():
    pw, pl, rw, rl = (-np.abs(a) / 20 for a in quad())

    def of_probabilities(w, l):  # noqa: E741
        return jnp.sum(dpo3d(jnp.log(w), jnp.log(l), rw, rl, beta_plus=0.3, beta_minus=0.2)[0])

    up, down = jax.jit(jax.grad(of_probabilities, argnums=(0, 1)))(np.exp(pw), np.exp(pl))
    assert np.all(up < 0)
    assert np.all(down > 0)
    got = log_probability_gradients(pw, pl, rw, rl, beta_plus=0.3, beta_minus=0.2)
    np.testing.assert_allclose(got[0], np.log(-np.asarray(up)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], np.log(np.asarray(down)), rtol=1e-4, atol=1e-5)


def test_the_ratio_of_the_probability_space_gradients_is_that_of_the_probabilities():
    args = quad(seed=5)
    up, down = log_probability_gradients(*args)
    np.testing.assert_allclose(down - up, args[0] - args[1], rtol=1e-5, atol=1e-5)


def test_as_the_rejected_probability_falls_its_gradient_grows_and_the_chosen_one_fades():
    pl = np.linspace(-2, -400, 200).astype(np.float32)
    same = np.full_like(pl, -2.0)
    up, down = (np.asarray(x, np.float64) for x in log_probability_gradients(same, pl, same, same))
    assert np.all(np.diff(down) > 0)
    assert np.all(np.diff(up) < 0)
    # In the limit they go like pi_l^(beta - 1) and pi_l^beta, beta = 0.1.
    np.testing.assert_allclose((down[-1] - down[-2]) / (pl[-1] - pl[-2]), 0.1 - 1, rtol=1e-3)
    np.testing.assert_allclose((up[-1] - up[-2]) / (pl[-1] - pl[-2]), 0.1, rtol=1e-3)


def test_gradients_of_absent_rows_and_at_extremes():
    args = [a.copy() for a in quad()]
    where = np.array([True, False, True, True, False, True])
    for a in args:
        a[1], a[4] = np.nan, np.inf
    for f in (dpo3d, log_probability_gradients):
        for term in f(*args, where=where):
            np.testing.assert_array_equal(np.asarray(term)[~where], 0.0)
            assert np.all(np.isfinite(term))
    value, grads = value_and_grads(lambda *a: total(*a, where=where), args, ALL4)
    np.testing.assert_allclose(value[where], np.asarray(total(*quad()))[where], rtol=1e-6)
    for g in grads:
        np.testing.assert_array_equal(g[~where], 0.0)
    for term in log_probability_gradients(*EXTREME):
        assert np.all(np.isfinite(term))


def test_unseen_mass():
    p = np.array([[0.5, 0.2], [0.9, 0.1], [1e-30, 1e-35]])
    got = unseen_mass(np.log(p).astype(np.float32))
    np.testing.assert_allclose(got, [0.3, 0.0, 1.0], atol=1e-6)
    almost_all = np.array([[-1e-6, -200.0]], np.float32)  # 1 - exp would keep one digit of this in float32
    np.testing.assert_allclose(unseen_mass(almost_all), 1e-6, rtol=1e-4)
    rounded = np.log(np.array([[0.6, 0.4 + 1e-5]])).astype(np.float32)
    assert unseen_mass(rounded)[0] == 0.0
    padded = np.array([[np.log(0.25), np.nan]], np.float32)
    np.testing.assert_allclose(unseen_mass(padded, where=np.array([[True, False]])), 0.75, rtol=1e-6)
    assert unseen_mass(padded, where=np.zeros((1, 2), bool))[0] == 1.0


# --- the spec's toy: shared features, uniform reference ---


@pytest.fixture(scope="module")
def final():
    """`(chosen, rejected, unseen)` at the end of training, one call per setting and seed; one compilation."""
    rng = [np.random.default_rng(seed) for seed in range(5)]

    def features(r):
        x = r.standard_normal((40, 4))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        across = x[1] - (x[1] @ x[0]) * x[0]
        x[1] = 0.8 * x[0] + 0.6 * across / np.linalg.norm(across)
        return x.astype(np.float32)

    rows = np.stack([features(r) for r in rng])

    @jax.jit
    def train(x, beta_minus, sft_weight):
        def objective(theta):
            p = jax.nn.log_softmax(x @ theta)[:2, None]
            r = jnp.full((1,), -jnp.log(40.0))
            return jnp.sum(sum(losses.dpo3d(*p, r, r, beta_minus=beta_minus, sft_weight=sft_weight)))

        theta = jax.lax.fori_loop(0, 4000, lambda _, t: t - jax.grad(objective)(t), jnp.zeros(4))
        p = jax.nn.log_softmax(x @ theta)
        return p[0], p[1], losses.unseen_mass(p[None, :2])[0]

    run = jax.jit(jax.vmap(train, in_axes=(0, None, None)))
    return lambda beta_minus, sft_weight=0.0: [np.asarray(a) for a in run(rows, beta_minus, sft_weight)]


def test_dpo_disperses_on_shared_features_and_both_remedies_help(final):
    chosen, rejected, unseen = final(0.1)
    assert np.all(rejected < chosen)
    assert np.all(chosen < -np.log(40))
    assert np.all(unseen > 0.99)
    flex, sft = final(0.05), final(0.1, 0.1)
    assert np.all(flex[0] > chosen)
    assert np.all(sft[0] > chosen)
    assert np.all(sft[2] < unseen)
    worse = final(0.12)
    assert np.all(worse[0][:4] < chosen[:4])


def test_without_shared_features_dpo_does_not_disperse():
    def objective(logits):
        p = jax.nn.log_softmax(logits)[:2, None]
        r = jnp.full((1,), -jnp.log(40.0))
        return jnp.sum(losses.dpo(*p, r, r, beta=0.1))

    grad = jax.grad(objective)
    run = jax.jit(lambda x: jax.lax.fori_loop(0, 4000, lambda _, x: x - 10 * grad(x), x))
    p = jax.nn.softmax(run(jnp.zeros(40)))
    assert p[0] > 0.9
