"""Uniform and weighted soup: values against float64, dtypes, and the errors that name leaves."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.errors import ConfigError
from jaxpo.merge.soup import effective_weights, soup


def trees(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "a": {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
            "b": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("weights", [None, (1.0, 1.0, 2.0), (0.2, 0.5, 0.3)])
def test_soup_is_the_weighted_average(weights):
    models = trees(3)
    merged = soup(models, weights)
    used = np.full(3, 1 / 3) if weights is None else np.asarray(weights) / np.sum(weights)
    expected = sum(w * np.float64(m["a"]["w"]) for w, m in zip(used, models, strict=True))
    np.testing.assert_allclose(merged["a"]["w"], expected, rtol=1e-6)
    assert merged["b"].dtype == jnp.bfloat16


def test_one_model_comes_back_bit_for_bit():
    (model,) = trees(1)
    np.testing.assert_array_equal(soup([model])["a"]["w"], model["a"]["w"])


def test_effective_weights_sum_to_one():
    assert effective_weights(4, None) == (0.25,) * 4
    assert effective_weights(2, (3.0, 1.0)) == (0.75, 0.25)


def test_problems_are_named():
    first, second = trees(2)
    with pytest.raises(ConfigError, match="2 models; give one weight per model"):
        soup([first, second], (1.0,))
    with pytest.raises(ConfigError, match="sum to 0"):
        soup([first, second], (1.0, -1.0))
    second = {"a": {"w": jnp.zeros((4, 3))}, "c": second["b"]}
    with pytest.raises(ConfigError) as caught:
        soup([first, second])
    assert caught.value.problems == [
        "a/w: shape (3, 4) in model 1, (4, 3) in model 2",
        "model 2 has an extra c",
        "model 2 lacks b",
    ]
