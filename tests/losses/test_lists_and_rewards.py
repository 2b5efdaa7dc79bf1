"""The Bradley-Terry reward model against a float64 reference."""

import math

import jax
import numpy as np
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

bradley_terry = jitted(losses.bradley_terry)


def rewards(seed=0, n=6):
    rng = np.random.default_rng(seed)
    return (*(rng.normal(0, 2, n).astype(np.float32) for _ in range(2)), rng.random(n).astype(np.float32))


def test_bradley_terry_value_and_gradient():
    rw, rl, m = rewards()

    def reference(rw, rl, m):
        rw = np.asarray(rw, np.float64)
        d = (rw - rl - m) / 1.5
        return 0.9 * sp(-d) + 0.1 * sp(d) + 0.02 * (rw + rl) ** 2

    def loss(*a):
        return bradley_terry(*a, temperature=1.5, label_smoothing=0.1, center_rewards_coefficient=0.02)

    check_against(loss, reference, (rw, rl, m), (0, 1, 2))
    check_bfloat16(loss, (rw, rl, m), (0, 1, 2))
    check_vmap(loss, (rw, rl, m))


def test_bradley_terry_identities():
    rw, rl, m = rewards()
    value, grads = value_and_grads(bradley_terry, (rw, rl), (0, 1))
    d = rw.astype(np.float64) - rl
    np.testing.assert_allclose(value, sp(-d), rtol=1e-6)
    np.testing.assert_allclose(grads[0], -sig(-d), rtol=1e-5)
    np.testing.assert_allclose(grads[0], -grads[1])
    np.testing.assert_allclose(bradley_terry(rl, rw) - value, d, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bradley_terry(rw + 3, rl + 3), value, rtol=1e-5)
    centred = bradley_terry(rw + 3, rl + 3, center_rewards_coefficient=0.01)
    assert np.abs(np.asarray(centred) - value).max() > 0.1
    np.testing.assert_allclose(bradley_terry(rw, rl, label_smoothing=0.3), value + 0.3 * d, rtol=1e-5)
    np.testing.assert_allclose(bradley_terry(rw, rl, m), bradley_terry(rw - m, rl), rtol=1e-5)
    best = math.log(0.8 / 0.2)
    slope = jax.grad(lambda r: bradley_terry(r, 0.0 * r, label_smoothing=0.2))(np.float32(best))
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_bradley_terry_extremes_and_absent_rows():
    value, _ = check_extreme(lambda a, b: bradley_terry(a, b), EXTREME[:2], (0, 1))
    np.testing.assert_allclose(value, [0, 1e4, 1e4, 0])
    check_extreme(lambda a, b: bradley_terry(a, b, center_rewards_coefficient=0.01), EXTREME[:2], (0, 1))
    fifty = bradley_terry(np.float32([-25.0]), np.float32([25.0]))
    np.testing.assert_allclose(fifty, 50.0)
    rw, rl, m = rewards()
    rw[2] = m[2] = np.nan
    where = np.arange(6) != 2
    loss = lambda a, b, c: bradley_terry(a, b, c, center_rewards_coefficient=0.1, where=where)  # noqa: E731
    value, grads = value_and_grads(loss, (rw, rl, m), (0, 1, 2))
    assert value[2] == 0.0
    assert all(g[2] == 0.0 and np.all(np.isfinite(g)) for g in grads)
