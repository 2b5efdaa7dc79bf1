"""SimCSE, SwAV and MetaRM's difference against float64; their limits; what the meta step does to a linear reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import numeric_gradient, sig, sp

from jaxpo.losses import bradley_terry, prototype_scores, reward_difference, simcse, sinkhorn, swav

RNG = np.random.default_rng(0)
N, H, K = 6, 5, 3
HERE = np.array([True, True, False, True, True, True])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def simcse64(s, t, tau=0.05):
    z = unit(s) @ unit(t).T / tau
    return np.log(np.exp(z).sum(1)) - np.diag(z)


def sinkhorn64(z, epsilon=0.05, iterations=3):
    q = np.exp(z / epsilon)
    for _ in range(iterations):
        q = q / q.sum(0, keepdims=True)
        q = q / q.sum(1, keepdims=True)
    return q


def softmax_log(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def difference64(r):
    k = r.shape[1]
    return np.asarray([
        2 / k**2 * sum(sig(abs(row[i] - row[j])) for i in range(k) for j in range(i + 1, k)) for row in r
    ])  # fmt: skip


def views(n=N, size=H):
    first = RNG.normal(size=(n, size))
    return first, first + 0.3 * RNG.normal(size=(n, size))


def test_simcse():
    s, t = views()
    np.testing.assert_allclose(simcse(s, t), simcse64(s, t), rtol=1e-4, atol=1e-5)
    masked = simcse(s, t, temperature=0.5, where=HERE)
    np.testing.assert_allclose(np.asarray(masked)[HERE], simcse64(s[HERE], t[HERE], 0.5), rtol=1e-4)
    assert masked[2] == 0
    for i in (0, 1):
        found = jax.grad(lambda *a: jnp.sum(simcse(*a, temperature=0.5)), argnums=i)(s, t)
        expected = numeric_gradient(lambda a, b: simcse64(a, b, 0.5), (s, t), i)
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_limits_of_simcse():
    s, t = views()
    np.testing.assert_allclose(simcse(3.0 * s, 0.1 * t), simcse(s, t), rtol=1e-4)
    np.testing.assert_allclose(simcse(np.ones((N, H)), np.ones((N, H))), np.log(N), rtol=1e-5)
    np.testing.assert_allclose(simcse(np.eye(N), np.eye(N)), 0, atol=1e-6)
    zero = jax.grad(lambda a: jnp.sum(simcse(a, jnp.zeros((N, H)))))(jnp.zeros((N, H)))
    assert np.isfinite(zero).all()


def test_sinkhorn_is_balanced():
    z = RNG.uniform(-1, 1, (12, K))
    np.testing.assert_allclose(sinkhorn(z), sinkhorn64(z), rtol=1e-4, atol=1e-6)
    q = np.asarray(sinkhorn(z, iterations=200, epsilon=0.5))
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(0), 12 / K, rtol=1e-3)
    some = np.arange(12) < 9
    found = np.asarray(sinkhorn(z, where=some))
    np.testing.assert_allclose(found[some], sinkhorn64(z[some]), rtol=1e-4, atol=1e-6)
    assert not found[~some].any()
    assert np.isfinite(np.asarray(sinkhorn(z, where=np.zeros(12, bool)))).all()


def test_swav():
    s, t = (np.asarray(x) for x in (RNG.uniform(-1, 1, (N, K)), RNG.uniform(-1, 1, (N, K))))

    def expected(a, b, q=None):
        q_a, q_b = q or (sinkhorn64(a), sinkhorn64(b))
        return -(q_a * softmax_log(b / 0.1)).sum(1) - (q_b * softmax_log(a / 0.1)).sum(1)

    np.testing.assert_allclose(swav(s, t), expected(s, t), rtol=1e-4)
    np.testing.assert_allclose(swav(s, t), swav(t, s), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(swav(s, t, where=HERE))[HERE], expected(s[HERE], t[HERE]), rtol=1e-4)
    # The assignment has no gradient.
    fixed = (sinkhorn64(s), sinkhorn64(t))
    found = jax.grad(lambda a: jnp.sum(swav(a, t)))(s)
    np.testing.assert_allclose(found, numeric_gradient(lambda a, b: expected(a, b, fixed), (s, t), 0), atol=2e-3)
    f, c = RNG.normal(size=(N, H)), RNG.normal(size=(H, K))
    np.testing.assert_allclose(prototype_scores(f, c), unit(f) @ unit(c.T).T, rtol=1e-4, atol=1e-5)


def test_the_difference_of_rewards():
    r = RNG.normal(size=(N, 4))
    np.testing.assert_allclose(reward_difference(r), difference64(r), rtol=1e-5)
    np.testing.assert_allclose(reward_difference(r + 7.0), difference64(r), rtol=1e-4)
    found = jax.grad(lambda x: jnp.sum(reward_difference(x)))(r)
    np.testing.assert_allclose(found, numeric_gradient(difference64, (r,), 0), atol=1e-4)
    np.testing.assert_allclose(np.sum(found, axis=1), 0, atol=1e-6)
    k = 4
    np.testing.assert_allclose(reward_difference(np.zeros((1, k))), (k - 1) / (2 * k), rtol=1e-6)
    np.testing.assert_allclose(reward_difference(1e4 * np.arange(k)[None]), (k - 1) / k, rtol=1e-6)
    assert not jax.grad(lambda x: jnp.sum(reward_difference(x)))(jnp.zeros((1, k))).any()
    some = np.array([[True, True, False, True]] * N)
    np.testing.assert_allclose(
        reward_difference(np.where(some, r, np.nan), some), difference64(r[:, [0, 1, 3]]), rtol=1e-5
    )
    assert reward_difference(r, np.arange(4)[None] < np.ones((N, 1)))[0] == 0


def meta_step(theta, x, sets, alpha, eta):
    """One MetaRM step and one plain step of a linear reward, float64 by jax with both orders."""
    j = lambda w: jnp.mean(reward_difference(sets @ w))  # noqa: E731
    loss = lambda w: jnp.mean(bradley_terry(x @ w, jnp.zeros(len(x))))  # noqa: E731
    ascent = jax.grad(j)(theta)
    meta = theta - alpha * jax.grad(loss)(theta + eta * ascent)
    return meta, theta - alpha * jax.grad(loss)(theta), ascent, jax.hessian(loss)(theta), j


def test_the_meta_step_lowers_the_difference_of_a_linear_reward():
    """Against the informal reading: to first order the extra update is -alpha eta H grad J, and H >= 0."""
    x, sets = jnp.asarray(RNG.normal(size=(40, H)) + 0.5), jnp.asarray(RNG.normal(size=(8, 4, H)))
    theta = jnp.asarray(RNG.normal(size=H))
    meta, plain, ascent, hessian, j = meta_step(theta, x, sets, 0.5, 0.05)
    np.testing.assert_allclose(meta - plain, -0.5 * 0.05 * hessian @ ascent, atol=2e-4)
    assert np.linalg.eigvalsh(np.asarray(hessian)).min() >= -1e-6
    assert j(meta) < j(plain)
    assert j(theta + 0.05 * ascent) > j(theta)
    np.testing.assert_array_equal(*meta_step(theta, x, sets, 0.5, 0.0)[:2])


def test_policies_of_strength():
    """BT at mu = 0 or a = 0; flipping is smoothing by 1, whose optimum is 1 - a; a margin's loss at d = mu is log 2."""
    w, v, zero = RNG.normal(size=4).astype(np.float32), RNG.normal(size=4).astype(np.float32), np.zeros(4, np.float32)
    plain = bradley_terry(w, v)
    np.testing.assert_allclose(bradley_terry(w, v, zero), plain)
    np.testing.assert_allclose(bradley_terry(w, v, probability=np.ones(4, np.float32)), plain)
    np.testing.assert_allclose(bradley_terry(v, w), bradley_terry(w, v, probability=zero), rtol=1e-6)
    a = 0.1
    best = np.log((1 - a) / a)
    slope = jax.grad(lambda d: bradley_terry(d[None], jnp.zeros(1), probability=jnp.full(1, 1 - a))[0])(best)
    assert slope == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(bradley_terry(w, v, w - v), np.log(2), rtol=1e-6)
    both = bradley_terry(w, v, np.float32([1, -1, 2, 0]), probability=np.full(4, 0.9, np.float32))
    d = w.astype(float) - v - [1, -1, 2, 0]
    np.testing.assert_allclose(both, 0.9 * sp(-d) + 0.1 * sp(d), rtol=1e-5)
