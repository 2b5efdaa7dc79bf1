"""SimCSE, SwAV and MetaRM's difference against float64; their limits; what the meta step does to a linear reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
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


@jax.jit
def simcse_of(s, t, temperature, where):
    """Losses, and gradients of their sum."""
    f = lambda a, b: simcse(a, b, temperature=temperature, where=where)  # noqa: E731
    return f(s, t), jax.grad(lambda a, b: jnp.sum(f(a, b)), argnums=(0, 1))(s, t)


def test_simcse():
    s, t = views()
    every = np.ones(N, bool)
    np.testing.assert_allclose(simcse_of(s, t, 0.05, every)[0], simcse64(s, t), rtol=1e-4, atol=1e-5)
    masked = simcse_of(s, t, 0.5, HERE)[0]
    np.testing.assert_allclose(np.asarray(masked)[HERE], simcse64(s[HERE], t[HERE], 0.5), rtol=1e-4)
    assert masked[2] == 0
    found = simcse_of(s, t, 0.5, every)[1]
    for i in (0, 1):
        expected = numeric_gradient(lambda a, b: simcse64(a, b, 0.5), (s, t), i)
        np.testing.assert_allclose(found[i], expected, atol=2e-4)


def test_limits_of_simcse():
    s, t = views()
    of = lambda a, b: simcse_of(a, b, 0.05, np.ones(N, bool))  # noqa: E731
    np.testing.assert_allclose(of(3.0 * s, 0.1 * t)[0], of(s, t)[0], rtol=1e-4)
    np.testing.assert_allclose(of(np.ones((N, H)), np.ones((N, H)))[0], np.log(N), rtol=1e-5)
    np.testing.assert_allclose(of(np.eye(N, H), np.eye(N, H))[0][:H], 0, atol=1e-6)
    assert np.isfinite(of(np.zeros((N, H)), np.zeros((N, H)))[1][0]).all()


def test_sinkhorn_is_balanced():
    z = RNG.uniform(-1, 1, (12, K))
    three = jax.jit(sinkhorn)
    np.testing.assert_allclose(three(z, where=np.ones(12, bool)), sinkhorn64(z), rtol=1e-4, atol=1e-6)
    q = np.asarray(jax.jit(lambda z: sinkhorn(z, iterations=10, epsilon=1.0))(z))
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(q.sum(0), 12 / K, rtol=1e-3)
    some = np.arange(12) < 9
    found = np.asarray(three(z, where=some))
    np.testing.assert_allclose(found[some], sinkhorn64(z[some]), rtol=1e-4, atol=1e-6)
    assert not found[~some].any()
    assert np.isfinite(np.asarray(three(z, where=np.zeros(12, bool)))).all()


def test_swav():
    s, t = RNG.uniform(-1, 1, (2, N, K))

    def expected(a, b, q=None):
        q_a, q_b = q or (sinkhorn64(a), sinkhorn64(b))
        return -(q_a * softmax_log(b / 0.1)).sum(1) - (q_b * softmax_log(a / 0.1)).sum(1)

    @jax.jit
    def of(s, t, where):
        f = lambda a: swav(a, t, where=where)  # noqa: E731
        return f(s), jax.grad(lambda a: jnp.sum(f(a)))(s)

    every = np.ones(N, bool)
    loss, slope = of(s, t, every)
    np.testing.assert_allclose(loss, expected(s, t), rtol=1e-4)
    np.testing.assert_allclose(loss, of(t, s, every)[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(of(s, t, HERE)[0])[HERE], expected(s[HERE], t[HERE]), rtol=1e-4)
    # The assignment has no gradient.
    fixed = (sinkhorn64(s), sinkhorn64(t))
    np.testing.assert_allclose(slope, numeric_gradient(lambda a, b: expected(a, b, fixed), (s, t), 0), atol=2e-3)
    f, c = RNG.normal(size=(N, H)), RNG.normal(size=(H, K))
    np.testing.assert_allclose(jax.jit(prototype_scores)(f, c), unit(f) @ unit(c.T).T, rtol=1e-4, atol=1e-5)


@jax.jit
def difference_of(rewards, present):
    """J of each row, and the gradient of their sum."""
    f = lambda r: reward_difference(r, present)  # noqa: E731
    return f(rewards), jax.grad(lambda r: jnp.sum(f(r)))(rewards)


def test_the_difference_of_rewards():
    r, k = RNG.normal(size=(N, 4)), 4
    every = np.ones((N, k), bool)
    found, slope = difference_of(r, every)
    np.testing.assert_allclose(found, difference64(r), rtol=1e-5)
    np.testing.assert_allclose(difference_of(r + 7.0, every)[0], difference64(r), rtol=1e-4)
    np.testing.assert_allclose(slope, numeric_gradient(difference64, (r,), 0), atol=1e-4)
    np.testing.assert_allclose(np.sum(slope, axis=1), 0, atol=1e-6)
    equal, flat = difference_of(np.zeros((N, k)), every)
    np.testing.assert_allclose(equal, (k - 1) / (2 * k), rtol=1e-6)
    assert not flat.any()
    np.testing.assert_allclose(difference_of(1e4 * np.arange(k) * every, every)[0], (k - 1) / k, rtol=1e-6)
    some = np.array([[True, True, False, True]] * N)
    without = difference_of(np.where(some, r, np.nan), some)[0]
    np.testing.assert_allclose(without, difference64(r[:, [0, 1, 3]]), rtol=1e-5)
    assert not difference_of(r, np.arange(k) < np.ones((N, 1)))[0].any()


@jax.jit
def meta_step(theta, x, sets, alpha, eta):
    """Parameters after a MetaRM step, a plain step and the ascent, J at theta and at each, -alpha eta H grad J, H."""
    j = lambda w: jnp.mean(reward_difference(sets @ w))  # noqa: E731
    loss = lambda w: jnp.mean(bradley_terry(x @ w, jnp.zeros(len(x))))  # noqa: E731
    ascent, hessian = jax.grad(j)(theta), jax.hessian(loss)(theta)
    slopes = jax.lax.map(jax.grad(loss), jnp.stack([theta + eta * ascent, theta]))
    after = jnp.stack([*(theta - alpha * slopes), theta + eta * ascent])
    return after, jax.lax.map(j, jnp.stack([theta, *after])), -alpha * eta * hessian @ ascent, hessian


def test_the_meta_step_lowers_the_difference_of_a_linear_reward():
    """Against the informal reading: to first order the extra update is -alpha eta H grad J, and H >= 0."""
    x, sets = RNG.normal(size=(40, H)) + 0.5, RNG.normal(size=(8, 4, H))
    theta = RNG.normal(size=H)
    (meta, plain, _), j, expected, hessian = meta_step(theta, x, sets, 0.5, 0.05)
    np.testing.assert_allclose(meta - plain, expected, atol=2e-4)
    assert np.linalg.eigvalsh(np.asarray(hessian)).min() >= -1e-6
    at_theta, at_meta, at_plain, ascended = np.asarray(j)
    assert at_meta < at_plain
    assert ascended > at_theta
    meta, plain, _ = meta_step(theta, x, sets, 0.5, 0.0)[0]
    np.testing.assert_array_equal(meta, plain)


def test_policies_of_strength():
    """BT at mu = 0 or a = 0; flipping is smoothing by 1, whose optimum is 1 - a; a margin's loss at d = mu is log 2."""
    w, v = RNG.normal(size=(2, 4)).astype(np.float32)
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)

    @jax.jit
    def of(w, v, margin, probability):
        f = lambda w: bradley_terry(w, v, margin, probability=probability)  # noqa: E731
        return f(w), jax.grad(lambda w: jnp.sum(f(w)))(w)

    plain = sp(-(w.astype(float) - v))
    np.testing.assert_allclose(of(w, v, zero, one)[0], plain, rtol=1e-5)
    np.testing.assert_allclose(of(v, w, zero, zero)[0], plain, rtol=1e-5)
    a = 0.1
    slope = of(np.log((1 - a) / a) * one, zero, zero, (1 - a) * one)[1]
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    np.testing.assert_allclose(of(w, v, w - v, one)[0], np.log(2), rtol=1e-6)
    margin = np.float32([1, -1, 2, 0])
    d = w.astype(float) - v - margin
    np.testing.assert_allclose(of(w, v, margin, 0.9 * one)[0], 0.9 * sp(-d) + 0.1 * sp(d), rtol=1e-5)
