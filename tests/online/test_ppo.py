"""PPO's whole loss and the KL in rewards, from rewards of answers on, against float64 loops written from the papers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from online.rollout_numbers import (
    COEF,
    COUNT,
    KNOWN,
    LENGTHS,
    LONGEST,
    MASK,
    NEW,
    NEW_VALUES,
    OLD,
    REF,
    REWARDS,
    VALUES,
    features,
    generation,
    on_grid,
    recorded,
)

from jaxpo.objectives.methods.ppo import PPO
from jaxpo.objectives.methods.reinforce_plus_plus import ReinforcePlusPlus
from jaxpo.objectives.methods.rloo import RLOO
from jaxpo.online.penalty import next_coef
from jaxpo.online.token_advantages import made_of

ESTIMATES = {
    "k1": lambda d: -d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: np.exp(d) - d - 1,
}
SETTINGS = {
    "plain": {},
    "dual clip": {"dual_clip": 1.3, "epsilon": 0.1},
    "discounted": {"gamma": 0.9, "lam": 0.7, "whiten_rewards": True, "kl_estimator": "k3"},
    "no value clip": {"cliprange_value": 0.0, "vf_coef": 1.0, "kl_estimator": "k2", "epsilon_high": 0.4},
}


def made(method):
    return made_of(generation(), recorded(), method, np.ones(1), aggregation="sum_then_normalize", longest=LONGEST)


def moments(x):
    """Mean, and variance with n - 1, of the tokens of answers that have a reward."""
    every = [x[n, t] for n in range(COUNT) for t in range(LONGEST) if KNOWN[n, t]]
    mean = sum(every) / len(every)
    return mean, sum((v - mean) ** 2 for v in every) / (len(every) - 1)


def rewards_of_tokens(estimator):
    found = np.zeros(MASK.shape)
    for n, length in enumerate(LENGTHS.reshape(-1)):
        if np.isnan(REWARDS.reshape(-1)[n]):
            continue
        for t in range(length):
            found[n, t] = -COEF * ESTIMATES[estimator](REF[n, t] - OLD[n, t])
        found[n, length - 1] += REWARDS.reshape(-1)[n]
    return found


def advantages(method):
    """GAE by its recursion, one token after another from the end, then whitened over all of them."""
    r = rewards_of_tokens(method.kl_estimator)
    if method.whiten_rewards:
        mean, variance = moments(r)
        r = np.where(KNOWN, (r - mean) / np.sqrt(variance + 1e-8) + mean, 0.0)
    a, back = np.zeros(MASK.shape), np.zeros(MASK.shape)
    for n, length in enumerate(LENGTHS.reshape(-1)):
        later_a, later_v = 0.0, 0.0
        for t in reversed(range(length)):
            delta = r[n, t] + method.gamma * later_v - VALUES[n, t]
            later_a = delta + method.gamma * method.lam * later_a
            later_v = VALUES[n, t]
            a[n, t], back[n, t] = later_a, later_a + VALUES[n, t]
    mean, variance = moments(a)
    return (a - mean) / np.sqrt(variance + 1e-8), back


def loss_of(method, new, values):
    """Mean over the trained tokens of policy and critic terms."""
    a, back = advantages(method)
    high = method.epsilon if method.epsilon_high is None else method.epsilon_high
    total = 0.0
    for n, t in zip(*np.nonzero(KNOWN), strict=True):
        w = np.exp(new[n, t] - OLD[n, t])
        term = max(-w * a[n, t], -np.clip(w, 1 - method.epsilon, 1 + high) * a[n, t])
        if method.dual_clip is not None and a[n, t] < 0:
            term = min(term, -method.dual_clip * a[n, t])
        v, c = values[n, t], method.cliprange_value
        error = (v - back[n, t]) ** 2
        if c:
            error = max(error, (np.clip(v, VALUES[n, t] - c, VALUES[n, t] + c) - back[n, t]) ** 2)
        total += term + method.vf_coef * 0.5 * error
    return total / KNOWN.sum()


@pytest.mark.parametrize("method", [PPO(), PPO(whiten_rewards=True, gamma=0.9)])
def test_answers_that_are_left_out_for_want_of_an_end_enter_no_mean_and_no_deviation(method, monkeypatch):
    ended = np.repeat(LENGTHS.reshape(-1, 1) != 6, LONGEST, axis=1)
    how = {"aggregation": "sum_then_normalize", "longest": LONGEST, "mask_truncated": True}
    _, columns = made_of(generation(), recorded(), method, np.ones(1), **how)
    monkeypatch.setitem(globals(), "KNOWN", KNOWN & ended)
    assert 0 < KNOWN.sum() < (MASK & ~np.isnan(REWARDS.reshape(-1, 1))).sum()
    a, back = advantages(method)
    np.testing.assert_allclose(on_grid(columns["advantages"])[KNOWN], a[KNOWN], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(on_grid(columns["returns"])[KNOWN], back[KNOWN], rtol=1e-5, atol=1e-6)
    assert np.all(on_grid(columns["advantages"])[MASK & ~ended] == 0)


def differences(f, x, step=1e-6):
    found = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        found[index] = (f(x + moved) - f(x - moved)) / (2 * step)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_the_whole_loss_and_its_gradient(name):
    method = PPO(**SETTINGS[name])
    assert method.problems() == []
    _, columns = made(method)
    a, back = advantages(method)
    np.testing.assert_allclose(on_grid(columns["advantages"])[KNOWN], a[KNOWN], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(on_grid(columns["returns"])[KNOWN], back[KNOWN], rtol=1e-5, atol=1e-6)
    assert np.all(on_grid(columns["advantages"])[MASK & ~KNOWN] == 0)
    counts = {"answers": jnp.float32(COUNT), "tokens": jnp.float32(KNOWN.sum())}

    def loss(logps, values):
        x = features(columns, logps, values)
        return method.reduce(x, method.terms(x, LONGEST), counts)

    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(jnp.float32(NEW), jnp.float32(NEW_VALUES))
    np.testing.assert_allclose(value, loss_of(method, NEW, NEW_VALUES), rtol=2e-5)
    expected = (
        differences(lambda new: loss_of(method, new, NEW_VALUES), NEW),
        differences(lambda values: loss_of(method, NEW, values), NEW_VALUES),
    )
    for got, want in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=5e-4, atol=2e-6)
        assert np.any(np.asarray(got)[KNOWN] == 0) or got is slopes[1]
        assert np.any(got != 0)


def test_metrics_are_those_of_the_definitions():
    method = PPO()
    _, columns = made(method)
    x = features(columns, jnp.float32(NEW), jnp.float32(NEW_VALUES))
    found = {name: float(m.value()) for name, m in method.metrics(x).items()}
    kl = np.where(KNOWN, OLD - REF, 0.0).sum(1)
    scores = REWARDS.reshape(-1)
    with_one = ~np.isnan(scores)
    ratio = np.exp(NEW - OLD)[KNOWN]
    a, back = advantages(method)
    expected = {
        "objective/kl": kl.mean(),
        "objective/kl_coef": COEF,
        "objective/non_score_reward": -COEF * kl.mean(),
        "objective/scores": scores[with_one].mean(),
        "objective/rlhf_reward": (scores - COEF * kl)[with_one].mean(),
        "objective/entropy": -np.where(KNOWN, OLD, 0.0).sum(1).mean(),
        "policy/approxkl_avg": 0.5 * np.mean((NEW - OLD)[KNOWN] ** 2),
        "policy/clipfrac_avg": np.mean(((ratio > 1.2) & (a[KNOWN] > 0)) | ((ratio < 0.8) & (a[KNOWN] < 0))),
        "val/ratio": ratio.mean(),
        "val/ratio_var": ratio.var(),
        "val/num_eos_tokens": (LENGTHS != 6).sum(),
        "critic/values/mean": NEW_VALUES[KNOWN].mean(),
        "critic/returns/mean": back[KNOWN].mean(),
        "critic/vf_explained_var": 1 - (back - NEW_VALUES)[KNOWN].var() / back[KNOWN].var(),
    }
    near = np.clip(NEW_VALUES, VALUES - 0.2, VALUES + 0.2)
    expected["val/clipfrac_avg"] = np.mean(((near - back) ** 2 > (NEW_VALUES - back) ** 2)[KNOWN])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    only_policy = dataclasses.replace(method, vf_coef=0.0)
    np.testing.assert_allclose(found["loss/policy_avg"], loss_of(only_policy, NEW, NEW_VALUES), rtol=1e-4)


def test_rloo_compares_rewards_less_the_kl_of_whole_answers():
    found, columns = made(RLOO(beta=COEF))
    kl = np.where(MASK, OLD - REF, 0.0).sum(1).reshape(REWARDS.shape)
    left = REWARDS - COEF * kl
    np.testing.assert_array_equal(found.reward, REWARDS)  # what is logged is the reward itself
    for g, group in enumerate(left):
        for k, own in enumerate(group):
            others = [r for i, r in enumerate(group) if i != k and not np.isnan(r)]
            expected = 0.0 if np.isnan(own) else own - np.mean(others)
            np.testing.assert_allclose(columns["advantages"][3 * g + k], expected, rtol=1e-5)


def test_reinforce_plus_plus_discounts_rewards_with_the_kl_in_them():
    _, columns = made(ReinforcePlusPlus(kl_coef=COEF, gamma=0.9))
    r = rewards_of_tokens("k1")
    later = np.zeros(MASK.shape)
    for n, length in enumerate(LENGTHS.reshape(-1)):
        for t in range(length):
            later[n, t] = sum(0.9 ** (i - t) * r[n, i] for i in range(t, length))
    mean, variance = moments(later)
    expected = (later - mean) / np.sqrt(variance + 1e-8)
    np.testing.assert_allclose(on_grid(columns["advantages"])[KNOWN], expected[KNOWN], rtol=1e-5, atol=1e-6)


def test_the_weight_of_the_kl_is_led_towards_its_target():
    method = PPO(target_kl=2.0, horizon=100.0)
    assert next_coef(method.penalty, None, 8) == method.kl_coef
    up = next_coef(method.penalty, {"kl_coef": 0.5, "kl": 2.2}, 10)
    np.testing.assert_allclose(up, 0.5 * (1 + 0.1 * 10 / 100), rtol=1e-6)
    assert next_coef(method.penalty, {"kl_coef": 0.5, "kl": 0.0}, 10) == pytest.approx(0.5 * (1 - 0.2 * 10 / 100))
    assert next_coef(PPO().penalty, {"kl_coef": 0.5, "kl": 9.0}, 10) == PPO().kl_coef


def test_without_a_weight_there_is_no_reference():
    for method in (PPO(kl_coef=0.0), RLOO(beta=0.0), ReinforcePlusPlus()):
        assert method.NEEDS.networks == ()
        assert method.penalty is None
        assert "ref_logps" not in method.NEEDS.per_token
