"""Options of the policy-gradient methods, each against the loss written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from online.rollout_numbers import COUNT, KNOWN, LONGEST, MASK, NEW, OLD, REF, features, recorded, rows

from jaxpo.objectives.families.critic import critic_values
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.reinforce_plus_plus import ReinforcePlusPlus
from jaxpo.objectives.methods.rloo import RLOO

ADVANTAGES = np.broadcast_to(np.asarray([1.0, -0.5, -1.5, 0.7, 2.0, -0.3])[:, None], MASK.shape)
SAMPLED = OLD + 0.2 * np.random.default_rng(3).standard_normal(MASK.shape)
COUNTS = {"answers": jnp.float32(COUNT), "tokens": jnp.float32(KNOWN.sum())}
OFF = {"importance_sampling_correction": "none"}


def value_and_slope(method):
    """Of a step's loss, in the log-probs."""
    columns = {**recorded().columns, "advantages": rows(ADVANTAGES)}

    def loss(logps):
        x = features(columns, logps)
        tokens = x.answer.tokens
        tokens = tokens.replace(columns={**tokens.columns, "sampling_logps": jnp.float32(SAMPLED)})
        x = x.replace(answer=x.answer.replace(rows=tokens))
        return method.reduce(x, method.terms(x, LONGEST), COUNTS)

    assert method.problems() == []
    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.float32(NEW))
    return float(value), np.asarray(slope)


def plain(weights=1.0, wide=9.0):
    """The unclipped loss over tokens under weights, and its slope."""
    w = np.exp(NEW - OLD) * weights
    terms = np.where(KNOWN, -w * ADVANTAGES, 0.0) / KNOWN.sum()
    return terms.sum(), terms


def ratios():
    return np.where(KNOWN, np.exp(OLD - SAMPLED), 0.0)


def test_gspo_token_is_gspo_where_advantages_are_alike():
    clips = {"epsilon": 0.02, "epsilon_high": 0.03, "loss_type": "grpo", **OFF}
    one, other = (
        value_and_slope(GRPO(importance_sampling_level=level, **clips)) for level in ("sequence", "sequence_token")
    )
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-4, atol=1e-7)
    assert np.any(one[1][KNOWN] == 0)
    assert np.any(one[1] != 0)


D = REF - NEW
SLOPES = {"k1": np.ones_like(D), "k2": -D, "k3": 1 - np.exp(D), "k1+": -D, "k3+": -D}
VALUES = {"k1": -D, "k2": D**2 / 2, "k3": np.exp(D) - D - 1}


@pytest.mark.parametrize("name", SLOPES)
def test_the_kl_in_the_loss_by_its_estimator(name):
    wide = {"epsilon": 0.99, "epsilon_high": 9.0, **OFF}
    plainly = value_and_slope(GRPO(**wide))
    value, slope = value_and_slope(GRPO(beta=0.3, kl_estimator=name, use_bias_correction_kl=False, **wide))
    kl = np.where(KNOWN, VALUES[name.removesuffix("+")], 0.0).sum() / KNOWN.sum()
    np.testing.assert_allclose(value - plainly[0], 0.3 * kl, rtol=1e-4, atol=1e-6)
    expected = 0.3 * np.where(KNOWN, SLOPES[name], 0.0) / KNOWN.sum()
    np.testing.assert_allclose(slope - plainly[1], expected, rtol=1e-3, atol=2e-6)


def per_answer(w):
    """The product of the tokens' ratios, on each of them."""
    logs = np.where(KNOWN, np.log(np.maximum(w, 1e-30)), 0.0)
    return np.where(KNOWN, np.exp(logs.sum(1, keepdims=True)), 0.0)


WEIGHTS = {
    "token_truncate": lambda w: np.where(KNOWN, np.clip(w, 0.9, 1.1), 0.0),
    "token_mask": lambda w: np.where((w >= 0.9) & (w <= 1.1), w, 0.0),
    "sequence_truncate": lambda w: np.where(KNOWN, np.clip(per_answer(w), 0.9, 1.1), 0.0),
    "sequence_mask": lambda w: np.where((per_answer(w) >= 0.9) & (per_answer(w) <= 1.1), per_answer(w), 0.0),
}


@pytest.mark.parametrize("mode", WEIGHTS)
@pytest.mark.parametrize("method", [GRPO, ReinforcePlusPlus])
def test_a_sampler_that_differs_is_corrected_within_its_bounds(method, mode):
    bounds = {"importance_sampling_floor": 0.9, "importance_sampling_cap": 1.1, "importance_sampling_correction": mode}
    value, slope = value_and_slope(method(epsilon=0.99, epsilon_high=9.0, **bounds))
    expected, terms = plain(WEIGHTS[mode](ratios()))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slope, terms, rtol=1e-3, atol=1e-6)


def test_answers_far_from_the_sampler_are_left_out():
    logs = np.where(KNOWN, OLD - SAMPLED, 0.0).sum(1) / np.maximum(KNOWN.sum(1), 1)
    inside = np.abs(logs) < 0.1
    assert 0 < inside[KNOWN.any(1)].sum() < KNOWN.any(1).sum()
    value, _ = value_and_slope(GRPO(epsilon=0.99, epsilon_high=9.0, geometric_mask=(np.exp(-0.1), np.exp(0.1)), **OFF))
    np.testing.assert_allclose(value, plain(np.where(inside[:, None], 1.0, 0.0))[0], rtol=1e-4)


def test_settings_that_contradict_are_refused():
    wrong = {
        "luspo": GRPO(loss_type="luspo", importance_sampling_level="sequence_token"),
        "terms of its own": GRPO(importance_sampling_level="sequence_token", delta=3.0),
        "two bounds above 0": GRPO(geometric_mask=(1.1, 0.9)),
        "must lie below": GRPO(importance_sampling_floor=5.0),
        "an answer is one action": RLOO(importance_sampling_correction="token_mask"),
        "leave gamma out": ReinforcePlusPlus(baseline="mean", gamma=0.9),
    }
    for words, method in wrong.items():
        assert any(words in problem for problem in method.problems()), words


class Echo:
    """Runs no network: its states are the tree that it is given."""

    def run(self, params, batch, rng=None):
        return params, {}


def test_a_value_is_read_before_its_token():
    class Rows:
        segment_ids = jnp.int32([[1, 1, 1, 2, 2, 0]])

    states = jnp.arange(6.0).reshape(1, 6, 1) + 1
    head = {"weight": jnp.ones((1, 1))}
    for critic in ({"value": head}, {"model": states, "value": head}):
        got = critic_values(Echo(), {"critic": critic}, Rows, states)
        np.testing.assert_array_equal(got, [[0, 1, 2, 0, 4, 0]])
