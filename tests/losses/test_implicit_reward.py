"""f-SFT losses and the Q-function view of logits against brute-force float64 references."""

import jax
import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    quad,
    value_and_grads,
)

from jaxpo import losses

f_sft = jitted(losses.implicit_reward)
conjugate = jax.jit(losses.f_conjugate, static_argnames="divergence")
slope = jax.jit(losses.f_conjugate_slope, static_argnames="divergence")
DIVERGENCES = ("tv", "chi2", "hellinger", "js", "kl")
N = np.array([1, 4, 9, 1, 30, 7], np.float32)

# f(u) with f(1) = f'(1) = 0 of the divergences whose conjugates these are, for the brute-force supremum.
GENERATORS = {
    "tv": lambda u: 0.5 * np.abs(u - 1.0),
    "chi2": lambda u: (u - 1.0) ** 2,
    "hellinger": lambda u: (np.sqrt(u) - 1.0) ** 2,
    "js": lambda u: u * np.log(u) - (1.0 + u) * np.log((1.0 + u) / 2.0),
    "kl": lambda u: u * np.log(u) - u + 1.0,
}
# Arguments that both the guard and the domain leave alone; chi2's f* is quadratic while the best u is positive.
INSIDE = {"tv": (-0.5, 0.5), "chi2": (-1.9, 3.0), "hellinger": (-3.0, 0.85), "js": (-3.0, 0.55), "kl": (-3.0, 3.0)}


def formula(t, divergence):
    t = np.asarray(t, np.float64)
    return {
        "tv": lambda: t,
        "chi2": lambda: t + t**2 / 4,
        "hellinger": lambda: t / (1 - t),
        "js": lambda: -np.log(2 - np.exp(t)),
        "kl": lambda: np.exp(t) - 1,
    }[divergence]()


def inside(divergence, count=7):
    return np.linspace(*INSIDE[divergence], count).astype(np.float32)


@pytest.mark.parametrize("divergence", GENERATORS)
def test_conjugates_are_the_supremum_over_a_grid(divergence):
    u = np.exp(np.linspace(-14, 6, 400_001))
    f = GENERATORS[divergence](u)
    for t in inside(divergence):
        np.testing.assert_allclose(conjugate(t, divergence), np.max(t * u - f), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", GENERATORS)
def test_slopes_are_the_conjugates_derivatives_also_beyond_the_guard(divergence):
    t = np.concatenate([inside(divergence), [5.0, 50.0, 1e4]]).astype(np.float32)
    value, (grad,) = value_and_grads(lambda x: conjugate(x, divergence), (t,), (0,))
    np.testing.assert_allclose(grad, slope(t, divergence), rtol=1e-5)
    assert np.all(np.isfinite(value))
    np.testing.assert_allclose(conjugate(np.float32(0.0), divergence), 0.0, atol=1e-7)
    np.testing.assert_allclose(slope(np.float32(0.0), divergence), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("divergence", "end"), [("hellinger", 0.9), ("js", 0.6), ("kl", 20.0)])
def test_the_guard_is_the_tangent(divergence, end):
    beyond = np.array([end + 1.0, end + 100.0], np.float32)
    tangent = formula(end, divergence) + (beyond - end) * float(slope(np.float32(end), divergence))
    np.testing.assert_allclose(conjugate(beyond, divergence), tangent, rtol=1e-4)


@pytest.mark.parametrize(("divergence", "end"), [("hellinger", 0.9), ("js", 0.6), ("kl", 20.0)])
def test_the_gradient_at_the_guard_is_whole(divergence, end):
    value, (grad,) = value_and_grads(lambda t: losses.f_conjugate(t, divergence), (np.float32([end]),), (0,))
    np.testing.assert_allclose(value, formula(end, divergence), rtol=1e-5)
    np.testing.assert_allclose(grad, slope(np.float32([end]), divergence), rtol=1e-5)


@pytest.mark.parametrize(
    ("divergence", "reduction"), [*((d, "sum") for d in DIVERGENCES), ("chi2", "mean"), ("js", "mean")]
)
def test_value_and_gradient(divergence, reduction):
    beta = 0.05 if reduction == "sum" else 0.2
    rng = np.random.default_rng(3)
    ref = logps(rng, 6)
    policy = ref + rng.normal(scale=1.0, size=6).astype(np.float32)
    values = rng.normal(scale=0.1, size=6).astype(np.float32)

    def reference(p, v):
        rho = (np.asarray(p, np.float64) - ref) / (1.0 if reduction == "sum" else N)
        return formula(-(beta * rho + v), divergence) + v

    def loss(p, v):
        return f_sft(p, ref, N, v, divergence=divergence, beta=beta, reduction=reduction)

    _, grads = check_against(loss, reference, (policy, values), (0, 1))
    per = beta / (1.0 if reduction == "sum" else N)
    t = -(per * (policy - ref) + values)
    np.testing.assert_allclose(grads[0], -per * np.asarray(slope(t, divergence)), rtol=1e-4)
    if reduction == "mean":
        check_bfloat16(loss, (policy, values), (0, 1))
        check_vmap(loss, (policy, values))


def test_total_variation_is_sft_for_any_value_and_reference():
    p, ref, other, v = quad()
    got = f_sft(p, ref, N, v, divergence="tv", beta=0.2, reduction="sum")
    np.testing.assert_allclose(got, -0.2 * (p - ref), rtol=1e-5, atol=1e-5)
    for reference, value in ((ref, v), (other, 0 * v)):
        _, (grad,) = value_and_grads(
            lambda x: f_sft(x, reference, N, value, divergence="tv", beta=0.2, reduction="sum"),  # noqa: B023
            (p,),
            (0,),
        )
        np.testing.assert_allclose(grad, -0.2, rtol=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_at_the_reference_the_gradient_is_sfts(divergence):
    p = quad()[0]
    value, (grad,) = value_and_grads(lambda x: f_sft(x, p, N, divergence=divergence, beta=0.7), (p,), (0,))
    np.testing.assert_allclose(value, 0.0, atol=1e-7)
    np.testing.assert_allclose(grad, -0.7 / N, rtol=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES[1:])
def test_the_weight_fades_as_the_policy_moves_away(divergence):
    u = np.linspace(-0.5, 6.0, 40).astype(np.float32)  # beta rho
    weight = np.asarray(slope(-u, divergence))
    assert np.all(np.diff(weight) < 0)
    if divergence == "chi2":
        np.testing.assert_allclose(slope(np.float32(-2.0), divergence), 0.0, atol=1e-7)
        assert np.all(weight[u > 2] < 0)
    else:
        assert np.all(weight > 0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_value_of_each_examples_own_gives_plain_sft(divergence):
    beta, rho = 0.1, np.array([-3.0, 0.5, 4.0], np.float32)
    v = np.linspace(-0.8, 0.8, 4001).astype(np.float32)
    v = v[np.abs(v) <= 0.2] if divergence == "tv" else v
    grid = np.stack([v - beta * x for x in rho])  # V around -beta rho, inside every domain
    ones = np.ones_like(grid)
    got = f_sft((rho[:, None] * ones).ravel(), (0 * ones).ravel(), ones.ravel(), grid.ravel(),
                divergence=divergence, beta=beta, reduction="sum")  # fmt: skip
    np.testing.assert_allclose(np.asarray(got).reshape(grid.shape).min(1), -beta * rho, atol=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extremes_absent_and_empty_rows(divergence):
    def run(p, r):
        return f_sft(p, r, np.ones(len(p), np.float32), divergence=divergence, reduction="sum")

    check_extreme(run, (EXTREME[0], EXTREME[2]), (0, 1))
    p, ref = (np.array(x) for x in quad()[:2])
    where, n = np.array([True, False, True, True, False, True]), N.copy()
    for a in (p, ref):
        a[1], a[4] = np.nan, np.inf
    n[3] = 0
    p[3] = ref[3] = 0
    value, grads = value_and_grads(lambda a, b: f_sft(a, b, n, divergence=divergence, where=where), (p, ref), (0, 1))
    np.testing.assert_array_equal(value[[1, 3, 4]], 0.0)
    assert np.all(value[[0, 2, 5]] != 0)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[[1, 3, 4]], 0.0)


# --- the Q-function view ---


def test_rewards_of_the_q_view_telescope():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3.0, size=(2, 6, 11)).astype(np.float32)
    tokens = rng.integers(0, 11, (2, 5))
    beta = 0.7
    wide = logits.astype(np.float64)
    lse = np.log(np.exp(wide).sum(-1))
    logp = np.take_along_axis(wide, np.pad(tokens, ((0, 0), (0, 1)))[..., None], -1)[..., 0] - lse
    rewards = np.asarray(losses.q_rewards(logits, tokens, beta=beta))
    value = np.asarray(losses.soft_value(logits, beta=beta))
    np.testing.assert_allclose(value, beta * lse, rtol=1e-5)
    total = beta * logp[:, :5].sum(1) + value[:, 0] - value[:, 5]
    np.testing.assert_allclose(rewards.sum(1), total, rtol=1e-4, atol=1e-4)
    q = beta * np.take_along_axis(wide[:, :5], tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(rewards, q - beta * lse[:, 1:], rtol=1e-4, atol=1e-5)


def test_a_shift_of_the_prompt_alone_changes_no_comparison_of_two_responses():
    """Q-values of s_1 that rise by a constant raise every response's return alike; those of a later state cancel."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 4, 9)).astype(np.float32)  # of two responses to one prompt
    logits[1, 0] = logits[0, 0]
    tokens = rng.integers(0, 9, (2, 3))

    def gap(logits):
        returns = losses.q_rewards(logits, tokens, beta=0.5).sum(1)
        return float(returns[0] - returns[1])

    up, later = logits.copy(), logits.copy()
    up[:, 0] += 3.0
    later[0, 1] += 3.0
    np.testing.assert_allclose(
        losses.q_rewards(up, tokens, beta=0.5).sum(1) - losses.q_rewards(logits, tokens, beta=0.5).sum(1),
        1.5,
        rtol=1e-5,
    )
    np.testing.assert_allclose(gap(up), gap(logits), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gap(later), gap(logits), rtol=1e-5, atol=1e-5)
