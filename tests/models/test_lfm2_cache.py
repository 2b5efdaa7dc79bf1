"""Generation: any way of feeding a sequence gives the packed forward's hidden states."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import CONFIGS, LFM3, params, random_tokens

from jaxpo.models.lfm2.forward import forward, init_cache, step
from jaxpo.models.lfm2.mixers import attention as attention_mixer
from jaxpo.ops.attention import cached_attention

LENGTH = 13
run = jax.jit(step, static_argnames=("config", "dtype"))


@pytest.fixture(params=list(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@functools.cache
def whole(config):
    tokens = random_tokens(2, LENGTH, seed=5)
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    return tokens, np.asarray(forward(params(config), tokens, np.ones_like(tokens), positions, config=config)[0])


@pytest.mark.parametrize("chunks", [(13,), (1,) * 13, (1, 5, 2, 5), (5, 1, 1, 1, 5)])
def test_prefill_equals_single_steps_equals_any_chunking(config, chunks):
    """Chunks of 1 are shorter than the k - 1 columns of the convolution and the window, 5 and 13 longer than it."""
    tokens, expected = whole(config)
    cache, start, outs = init_cache(config, 2, LENGTH), 0, []
    for n in chunks:
        hidden, cache = run(params(config), tokens[:, start : start + n], cache, config=config)
        outs.append(hidden)
        start += n
    np.testing.assert_allclose(np.concatenate(outs, 1), expected, atol=2e-5)
    np.testing.assert_array_equal(cache.length, [LENGTH, LENGTH])


def test_prompts_of_unequal_length_in_one_batch_then_decoding(config):
    """Prompts of 1 and 9 tokens prefilled in chunks of 5 with right padding, then single steps to the end."""
    tokens, expected = whole(config)
    lengths, cache = np.array([1, 9]), init_cache(config, 2, LENGTH)
    for start in (0, 5):
        piece = np.full((2, 5), 30)  # garbage where not valid
        valid = start + np.arange(5) < lengths[:, None]
        for row in range(2):
            piece[row, valid[row]] = tokens[row, start : start + valid[row].sum()]
        hidden, cache = run(params(config), piece, cache, valid=valid, config=config)
        for row in range(2):
            n = valid[row].sum()
            np.testing.assert_allclose(hidden[row, :n], expected[row, start : start + n], atol=2e-5)
    for _ in range(4):
        at = np.asarray(cache.length)
        hidden, cache = run(params(config), np.take_along_axis(tokens, at[:, None], 1), cache, config=config)
        np.testing.assert_allclose(hidden[:, 0], expected[[0, 1], at], atol=2e-5)
    np.testing.assert_array_equal(cache.length, lengths + 4)


def test_a_row_without_valid_tokens_is_left_alone(config):
    tokens, _ = whole(config)
    _, before = run(params(config), tokens[:, :5], init_cache(config, 2, LENGTH), config=config)
    _, after = run(params(config), tokens[:, 5:10], before, valid=np.array([[False] * 5, [True] * 5]), config=config)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert (np.asarray(a[1]) != np.asarray(b[1])).any()


@pytest.mark.parametrize("implementation", ["blocks", "xla"])
def test_attention_of_a_row_without_valid_tokens_is_nothing(config, implementation, monkeypatch):
    """As it is once a row of an engine has ended: nothing is looked up for it."""
    tokens, _ = whole(config)
    _, cache = run(params(config), tokens[:, :5], init_cache(config, 2, LENGTH), config=config)
    valid, found = np.array([[False], [True]]), []

    def watched(*args, **kwargs):
        found.append(cached_attention(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(attention_mixer, "cached_attention", watched)
    step(params(config), tokens[:, 5:6], cache, valid=valid, config=config, attention=implementation)
    assert len(found) == sum("attention" in kind for kind in config.layer_types)
    for out in found:
        assert not out[0].any()
        assert out[1].any()


def test_a_row_that_outgrows_its_cache_is_not_silently_wrong(config):
    tokens, expected = whole(config)
    _, cache = run(
        params(config),
        tokens[:, :8],
        init_cache(config, 2, 9),
        valid=np.arange(8) < np.array([[8], [4]]),
        config=config,
    )
    hidden, _ = run(params(config), np.stack([tokens[0, 8:10], tokens[1, 4:6]]), cache, config=config)
    assert np.isnan(hidden[0]).all()
    np.testing.assert_allclose(hidden[1], expected[1, 4:6], atol=2e-5)


def test_bfloat16_cache(config):
    tokens, expected = whole(config)
    cache = init_cache(config, 2, LENGTH, jnp.bfloat16)
    hidden, cache = run(params(config), tokens[:, :6], cache, config=config)
    assert {x.dtype for x in jax.tree.leaves(cache.layers)} == {jnp.dtype(jnp.bfloat16)}
    assert np.abs(hidden - expected[:, :6]).max() < 0.1


@pytest.mark.parametrize("length", [3, 200])
def test_a_window_bounds_what_is_remembered(length):
    layers = init_cache(LFM3, 2, length).layers
    assert layers["1"]["k"].shape[1] == length
    assert layers["2"]["recent_k"].shape[1] == layers["2"]["recent_v"].shape[1] == min(LFM3.sliding_window - 1, length)


def test_without_full_attention_a_row_outgrows_nothing():
    """Window and convolution forget: a cache for 4 tokens serves 13."""
    config = dataclasses.replace(LFM3, layer_types=("sliding_attention", "conv"))
    tokens, expected = whole(config)
    cache, outs = init_cache(config, 2, 4), []
    for start in range(LENGTH):
        hidden, cache = run(params(config), tokens[:, start : start + 1], cache, config=config)
        outs.append(hidden)
    np.testing.assert_allclose(np.concatenate(outs, 1), expected, atol=2e-5)
