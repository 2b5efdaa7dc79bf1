"""Balance losses and the bias update against float64, finite differences and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.losses.balance import load_balance, router_z, updated_bias

E, K, TOKENS = 6, 2, 40


def _routed(seed=0):
    """Scores of sigmoid router, who was chosen, probabilities; float64."""
    scores = 1 / (1 + np.exp(-np.random.default_rng(seed).standard_normal((TOKENS, E))))
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return scores, np.bincount(chosen.ravel(), minlength=E), scores / scores.sum(1, keepdims=True)


def test_load_balance_is_the_product_of_two_means_over_the_tokens():
    _, load, probability = _routed()
    expected = E * np.sum(load / (K * TOKENS) * probability.mean(0))
    found = load_balance(jnp.float32(load), jnp.float32(probability.sum(0)), jnp.float32(TOKENS), top_k=K)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    two = jnp.stack([jnp.float32(load), jnp.full((E,), TOKENS * K / E)])
    both = load_balance(two, jnp.float32([probability.sum(0)] * 2), jnp.float32(TOKENS), top_k=K)
    np.testing.assert_allclose(both, [expected, 1.0], rtol=1e-6)  # an even load gives 1 whatever the probabilities


def test_load_balance_of_a_collapsed_router_is_the_number_of_experts():
    load = jnp.zeros(E).at[2].set(TOKENS)
    np.testing.assert_allclose(load_balance(load, load, jnp.float32(TOKENS), top_k=1), E, rtol=1e-6)


def test_load_balance_pushes_probability_from_busy_to_idle_experts():
    _, load, probability = _routed()
    slope = jax.grad(lambda s: load_balance(jnp.float32(load), s, jnp.float32(TOKENS), top_k=K))(
        jnp.float32(probability.sum(0))
    )
    np.testing.assert_allclose(slope, E * load / (K * TOKENS) / TOKENS, rtol=1e-5)


def test_router_z_and_its_gradient():
    logits = np.random.default_rng(1).standard_normal((TOKENS, E)) * 3

    def f(x):
        return router_z(jnp.sum(jnp.square(jax.nn.logsumexp(x, axis=-1))), jnp.float32(TOKENS))

    log_z = np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(f(jnp.float32(logits)), np.mean(log_z**2), rtol=1e-5)
    expected = 2 * log_z[:, None] * np.exp(logits - log_z[:, None]) / TOKENS
    np.testing.assert_allclose(jax.grad(f)(jnp.float32(logits)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [lambda n: load_balance(jnp.zeros(E), jnp.zeros(E), n, top_k=K), lambda n: router_z(0.0, n)]
)
def test_no_token_gives_no_loss(loss):
    assert float(loss(jnp.float32(0.0))) == 0.0


def test_the_bias_moves_against_the_load_and_rests_when_it_is_even():
    bias, load = jnp.float32([0.1, 0.0, -0.2, 0.3]), jnp.float32([7, 1, 4, 4])
    np.testing.assert_allclose(updated_bias(bias, load, rate=0.01), [0.09, 0.01, -0.2, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(updated_bias(bias, jnp.zeros(4), rate=0.01), bias)
