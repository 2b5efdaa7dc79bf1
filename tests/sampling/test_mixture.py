"""Two models that write together: the tokens are drawn from the mixture that the equations say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.models.family import family, param_table
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.mixture import FIRST, SECOND, Mixture
from jaxpo.models.spec import init_params
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler


def config(width, layers):
    return LFM2Config(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=layers,
        max_position_embeddings=64,
        initializer_range=0.4,
    )


SMALL, LARGE = config(16, ("conv", "full_attention")), config(24, ("full_attention", "conv", "conv"))
PROMPT = [1, 5, 9, 2]


def weights(seed, of):
    return init_params(param_table(of), jax.random.key(seed))


PARAMS = {FIRST: weights(0, SMALL), SECOND: weights(1, LARGE)}


def logits(params, of, tokens):
    """Float64 `[S, V]` by the forward pass."""
    rows = jnp.asarray([tokens])
    ones = jnp.ones_like(rows)
    hidden, _ = family(of).forward(params, Inputs(rows, ones, jnp.arange(len(tokens))[None]), config=of)
    return np.asarray(hidden[0], np.float64) @ np.asarray(family(of).unembedding(params), np.float64).T


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("rule", "cache", "one_shape"),
    [
        ("geometric", "dense", True),
        pytest.param("geometric", "dense", False, marks=pytest.mark.slow),
        pytest.param("arithmetic", "pages", True, marks=pytest.mark.slow),
    ],
)
def test_log_probs_are_those_of_the_mixture(rule, cache, one_shape):
    mixed = Mixture(SMALL, LARGE, 0.3, rule)
    engine = Engine(PARAMS, mixed, slots=3, context=64, rounds=4, cache=cache, one_shape=one_shape)
    asked = Request(PROMPT, n=3, sampler=Sampler(temperature=1.0), max_new_tokens=9, stop_ids=(), seed=3)
    for found in engine.run([asked]):
        tokens = [*PROMPT, *found.tokens]
        z = [logits(PARAMS[name], of, tokens) for name, of in ((FIRST, SMALL), (SECOND, LARGE))]
        if rule == "geometric":
            expected = log_softmax(0.7 * z[0] + 0.3 * z[1])
        else:
            expected = np.log(0.7 * np.exp(log_softmax(z[0])) + 0.3 * np.exp(log_softmax(z[1])))
        rows = np.arange(len(PROMPT) - 1, len(tokens) - 1)
        np.testing.assert_allclose(found.sampling_logps, expected[rows, found.tokens], atol=2e-5)


@pytest.mark.parametrize("rule", ["geometric", "arithmetic"])
def test_a_weight_of_nothing_is_the_first_model_and_all_of_it_the_second(rule):
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, SMALL.hidden_size + LARGE.hidden_size)), jnp.float32)
    for weight, name, of, part in ((0.0, FIRST, SMALL, hidden[:, :16]), (1.0, SECOND, LARGE, hidden[:, 16:])):
        found = family(Mixture(SMALL, LARGE, 0.5, rule)).logits(PARAMS, hidden, Mixture(SMALL, LARGE, weight, rule))
        np.testing.assert_allclose(found, part @ family(of).unembedding(PARAMS[name]).T, atol=1e-5)
