"""Generation: any way of feeding a sequence gives the packed forward's hidden states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import CONFIG, params, random_tokens

from jaxpo.models.lfm2.forward import forward, init_cache, step

LENGTH = 13
run = jax.jit(functools.partial(step, config=CONFIG))


@functools.cache
def whole():
    tokens = random_tokens(2, LENGTH, seed=5)
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    return tokens, np.asarray(forward(params(), tokens, np.ones_like(tokens), positions, config=CONFIG)[0])


@pytest.mark.parametrize("chunks", [(13,), (1,) * 13, (1, 5, 2, 5), (5, 1, 1, 1, 5)])
def test_prefill_equals_single_steps_equals_any_chunking(chunks):
    """Chunks of 1 are shorter than the k - 1 = 2 columns of the convolution."""
    tokens, expected = whole()
    cache, start, outs = init_cache(CONFIG, 2, LENGTH), 0, []
    for n in chunks:
        hidden, cache = run(params(), tokens[:, start : start + n], cache)
        outs.append(hidden)
        start += n
    np.testing.assert_allclose(np.concatenate(outs, 1), expected, atol=2e-5)
    np.testing.assert_array_equal(cache.length, [LENGTH, LENGTH])


def test_prompts_of_unequal_length_in_one_batch_then_decoding():
    """Prompts of 1 and 9 tokens prefilled in chunks of 5 with right padding, then single steps to the end."""
    tokens, expected = whole()
    lengths, cache = np.array([1, 9]), init_cache(CONFIG, 2, LENGTH)
    for start in (0, 5):
        piece = np.full((2, 5), 30)  # garbage where not valid
        valid = start + np.arange(5) < lengths[:, None]
        for row in range(2):
            piece[row, valid[row]] = tokens[row, start : start + valid[row].sum()]
        hidden, cache = run(params(), piece, cache, valid=valid)
        for row in range(2):
            n = valid[row].sum()
            np.testing.assert_allclose(hidden[row, :n], expected[row, start : start + n], atol=2e-5)
    for _ in range(4):
        at = np.asarray(cache.length)
        hidden, cache = run(params(), np.take_along_axis(tokens, at[:, None], 1), cache)
        np.testing.assert_allclose(hidden[:, 0], expected[[0, 1], at], atol=2e-5)
    np.testing.assert_array_equal(cache.length, lengths + 4)


def test_a_row_without_valid_tokens_is_left_alone():
    tokens, _ = whole()
    _, before = run(params(), tokens[:, :5], init_cache(CONFIG, 2, LENGTH))
    _, after = run(params(), tokens[:, 5:10], before, valid=np.array([[False] * 5, [True] * 5]))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert (np.asarray(a[1]) != np.asarray(b[1])).any()


def test_a_row_that_outgrows_its_cache_is_not_silently_wrong():
    tokens, expected = whole()
    _, cache = run(params(), tokens[:, :8], init_cache(CONFIG, 2, 9), valid=np.arange(8) < np.array([[8], [4]]))
    hidden, _ = run(params(), np.stack([tokens[0, 8:10], tokens[1, 4:6]]), cache)
    assert np.isnan(hidden[0]).all()
    np.testing.assert_allclose(hidden[1], expected[1, 4:6], atol=2e-5)


def test_bfloat16_cache():
    tokens, expected = whole()
    cache = init_cache(CONFIG, 2, LENGTH, jnp.bfloat16)
    hidden, cache = run(params(), tokens[:, :6], cache)
    assert {x.dtype for x in jax.tree.leaves(cache.layers)} == {jnp.dtype(jnp.bfloat16)}
    assert np.abs(hidden - expected[:, :6]).max() < 0.1
