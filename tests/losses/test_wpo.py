"""WPO's weights, the collision probability they divide by, and TDPO1, against float64 references."""

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
    numeric_gradient,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses
from jaxpo.losses.vocab import log_collision, log_prob

collision = jax.jit(log_collision)
dpo = jitted(losses.dpo)
tdpo1 = jitted(losses.tdpo1)
tdpo2 = jitted(losses.tdpo2)
wpo_weight = jitted(losses.wpo_weight)


# --- log sum_v p_v^2 ---


def test_collision_value_and_gradient():
    rng = np.random.default_rng(0)
    z = (3 * rng.normal(size=(4, 7))).astype(np.float32)

    def reference(z):
        e = np.exp(np.asarray(z, np.float64))
        return np.log(np.sum((e / e.sum(-1, keepdims=True)) ** 2, axis=-1))

    check_against(collision, reference, (z,), (0,))
    check_bfloat16(collision, (z,), (0,))
    check_vmap(collision, (z,))


def test_collision_limits_and_extremes():
    np.testing.assert_allclose(collision(np.full((1, 16), 3.0, np.float32)), -np.log(16), rtol=1e-6)
    z = np.float32([[1e4, 0, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [1e4, 1e4 - 1, 0], [0, -np.inf, 0]])
    two = 1 / (1 + np.exp(-1.0))
    expected = [0, -np.log(2), -np.log(3), np.log(two**2 + (1 - two) ** 2), -np.log(2)]
    value, _ = check_extreme(collision, (z[:4],), (0,))
    # The fourth would be lost in lse(2 z) - 2 lse(z), which is 0 in float32 there.
    np.testing.assert_allclose(value, expected[:4], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(collision(z), expected, rtol=1e-5, atol=1e-7)
    shifted = collision(z[:4] - 500)
    np.testing.assert_allclose(shifted, value, rtol=1e-3, atol=1e-6)


# --- weights ---


def sides(seed=0, n=6):
    """log pi and collision sums and lengths of both sides, with weights below and above 1."""
    rng = np.random.default_rng(seed)
    lengths = [rng.integers(1, 9, n).astype(np.float32) for _ in range(2)]
    logps = [(-k * rng.gamma(2.0, 1.0, n)).astype(np.float32) for k in lengths]
    collisions = [(-k * rng.gamma(2.0, 1.0, n)).astype(np.float32) for k in lengths]
    return (*logps, *collisions, *lengths)


def reference_weight(p_w, p_l, c_w, c_l, n_w, n_l):
    p_w, p_l, c_w, c_l = (np.asarray(x, np.float64) for x in (p_w, p_l, c_w, c_l))
    return np.exp((p_w - c_w) / np.maximum(n_w, 1) + (p_l - c_l) / np.maximum(n_l, 1))


def test_weights_with_and_without_the_bound():
    args = sides()
    free = reference_weight(*args)
    assert free.min() < 0.9 < 1.1 < free.max()
    np.testing.assert_allclose(wpo_weight(*args, maximum=None), free, rtol=1e-5)
    np.testing.assert_allclose(wpo_weight(*args), np.minimum(free, 1.0), rtol=1e-5)
    np.testing.assert_allclose(wpo_weight(*args, maximum=0.5), np.minimum(free, 0.5), rtol=1e-5)
    check_bfloat16(wpo_weight, args, range(4))
    check_vmap(wpo_weight, args)


def test_weights_take_no_gradient():
    args = sides()
    slopes = jax.grad(lambda *a: jnp.sum(losses.wpo_weight(*a, maximum=None)), argnums=(0, 1, 2, 3))(*args)
    assert not any(np.any(s) for s in slopes)
    pair = quad()
    _, grads = value_and_grads(lambda p: wpo_weight(p, *args[1:]) * dpo(p, *pair[1:]), (pair[0],), (0,))
    _, plain = value_and_grads(lambda p: dpo(p, *pair[1:]), (pair[0],), (0,))
    weight = np.minimum(reference_weight(pair[0], *args[1:]), 1.0)
    np.testing.assert_allclose(grads[0], weight * plain[0], rtol=1e-5)


def test_a_uniform_policy_has_weight_1_and_a_sure_one_scores_its_own_tokens_1():
    z = np.zeros((6, 11), np.float32)
    target = np.arange(6, dtype=np.int32)
    sums = float(np.sum(log_prob(z, target))), float(np.sum(collision(z)))
    one = [np.float32([x]) for x in (sums[0], sums[0], sums[1], sums[1], 6, 6)]
    np.testing.assert_allclose(wpo_weight(*one, maximum=None), 1.0, rtol=1e-5)
    z[:, 3] = 60.0
    sure, unsure = (
        float(np.sum(log_prob(z, np.full(6, 3, np.int32)))),
        float(np.sum(log_prob(z, np.full(6, 4, np.int32)))),
    )
    bound = float(np.sum(collision(z)))
    own = [np.float32([x]) for x in (sure, sure, bound, bound, 6, 6)]
    other = [np.float32([x]) for x in (sure, unsure, bound, bound, 6, 6)]
    np.testing.assert_allclose(wpo_weight(*own), 1.0, rtol=1e-6)
    assert wpo_weight(*other) < 1e-20


def test_sampled_tokens_weigh_at_most_1_in_the_geometric_mean():
    """E log pi(y) = -H, and log sum pi^2 = log E pi(y) >= E log pi(y)."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(50, 9)).astype(np.float32)
    p = np.exp(z - np.log(np.exp(z).sum(-1, keepdims=True)))
    entropy = -np.sum(p * np.log(p), -1)
    log_weight = -entropy - np.asarray(collision(z))
    assert np.all(log_weight <= 1e-6)
    assert log_weight.min() < -0.05


def test_weights_of_extreme_empty_one_token_and_absent_sides():
    big = np.float32([1e4, -1e4, 0, 5])
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    np.testing.assert_allclose(wpo_weight(big, zero, zero, zero, one, one), [1, 0, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(wpo_weight(big, -big, zero, zero, one, one), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(wpo_weight(zero, zero, zero, zero, zero, zero), 1.0)
    args = [a.copy() for a in sides()]
    where = np.array([True, False, True, False, True, True])
    whole = np.asarray(wpo_weight(*args))
    for a in args:
        a[1], a[3] = np.nan, np.inf
    np.testing.assert_allclose(wpo_weight(*args, where=where), np.where(where, whole, 0.0), rtol=1e-6)


# --- TDPO1 ---

ALL = (0, 1, 2, 3, 4, 5)


def kls(seed=3, n=6):
    rng = np.random.default_rng(seed)
    return tuple(rng.gamma(2.0, 2.0, n).astype(np.float32) for _ in range(2))


def tdpo1_reference(pw, pl, rw, rl, kw, kl):
    pw, pl, rw, rl, kw, kl = (np.asarray(x, np.float64) for x in (pw, pl, rw, rl, kw, kl))
    return sp(-0.4 * ((pw - rw) - (pl - rl) - (kl - kw)))


def test_tdpo1_value_and_gradient_through_both_kls():
    args = (*quad(), *kls())
    loss = lambda *a: tdpo1(*a, beta=0.4)  # noqa: E731
    value, grads = check_against(loss, tdpo1_reference, args, ALL)
    slope = 0.4 * (1 - np.exp(-value.astype(np.float64)))
    np.testing.assert_allclose(grads[0], -slope, rtol=1e-4)
    np.testing.assert_allclose(grads[4], grads[0], rtol=1e-6)
    np.testing.assert_allclose(grads[5], -grads[4], rtol=1e-6)
    check_bfloat16(loss, args, ALL)
    check_vmap(tdpo1, args)
    big = np.full(4, 1e4, np.float32)
    check_extreme(lambda *a: tdpo1(*a, beta=1.0), (*EXTREME, big, big[::-1] * 0.5), ALL)


def test_tdpo1_limits_against_dpo_and_tdpo2():
    pair, (kw, kl) = quad(), kls()
    np.testing.assert_allclose(tdpo1(*pair, kw, kw), dpo(*pair), rtol=1e-5)
    args = (*pair, kw, kl)
    np.testing.assert_allclose(tdpo1(*args, beta=0.4), tdpo2(*args, beta=0.4, alpha=1.0), rtol=1e-6)
    _, one = value_and_grads(lambda *a: tdpo1(*a, beta=0.4), args, (4, 5))
    _, two = value_and_grads(lambda *a: tdpo2(*a, beta=0.4, alpha=1.0), args, (4, 5))
    np.testing.assert_allclose(one[1], two[1], rtol=1e-6)
    np.testing.assert_array_equal(two[0], 0.0)
    np.testing.assert_allclose(one[0], numeric_gradient(tdpo1_reference, args, 4), rtol=1e-4, atol=1e-6)
    p, r = pair[0], pair[1]
    at_reference, grads = value_and_grads(lambda *a: tdpo1(*a), (p, r, p, r, kw * 0, kl * 0), (0,))
    np.testing.assert_allclose(at_reference, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grads[0], -0.1 * sig(0.0), rtol=1e-6)


@pytest.mark.parametrize("nobody", [False, True])
def test_tdpo1_absent_rows(nobody):
    args = [a.copy() for a in (*quad(), *kls())]
    where = np.zeros(6, bool) if nobody else np.array([True, False, True, False, True, True])
    whole, whole_grads = value_and_grads(lambda *a: tdpo1(*a), args, ALL)
    for a in args:
        a[1], a[3] = np.nan, np.inf
    value, grads = value_and_grads(lambda *a: tdpo1(*a, where=where), args, ALL)
    np.testing.assert_allclose(value, np.where(where, whole, 0.0), rtol=1e-6)
    for g, w in zip(grads, whole_grads, strict=True):
        np.testing.assert_allclose(g, np.where(where, w, 0.0), rtol=1e-6)
