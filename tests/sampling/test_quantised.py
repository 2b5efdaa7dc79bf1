"""An engine in eight bits writes what the quantised model says; how far that is from the float model is measured."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.lfm2.forward import forward, unembedding
from jaxpo.models.quantize import quantized
from jaxpo.ops.linear import einsum
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.quantised import PASSAGE, divergence
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY

PROMPTS = ([1, 5, 9, 30, 2], [1, 44], [1, 8, 8, 21, 60, 3, 17])


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model.params, model.config, slots=4, context=32, page=8, together=16, rounds=4, quantize="int8")


def asked(prompt):
    return Request(prompt, max_new_tokens=6, sampler=GREEDY, stop_ids=())


def test_its_tokens_and_log_probs_are_those_of_the_quantised_model(engine, model):
    small = quantized(model.params, model.config, "int8")

    @jax.jit
    def logps(tokens):
        ones, positions = jnp.ones_like(tokens), jnp.arange(tokens.shape[1])[None]
        hidden, _ = forward(small, tokens, ones, positions, config=model.config)
        return jax.nn.log_softmax(einsum("rsd,vd->rsv", hidden, unembedding(small), out_dtype=jnp.float32))

    for prompt, found in zip(PROMPTS, engine.generate(map(asked, PROMPTS)), strict=True):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(prompt) + 6] = [*prompt, *found.tokens]
        expected = np.asarray(logps(row))[0, len(prompt) - 1 : len(prompt) + 5]
        # Where an activation lies between two integers rounding decides, once in a while.
        np.testing.assert_allclose(found.logps, expected[np.arange(6), found.tokens], atol=0.05)
        assert (expected.max(-1) - found.logps < 0.1).all()


def test_a_model_that_is_quantised_already_is_taken_as_it_is(engine, model):
    own = Engine(
        quantized(model.params, model.config, "int8"),
        model.config,
        slots=4,
        context=32,
        page=8,
        together=16,
        rounds=4,
    )
    for one, other in zip(own.generate(map(asked, PROMPTS)), engine.generate(map(asked, PROMPTS)), strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.logps, other.logps)


def test_neighbours_change_no_bit(engine):
    """The sums of integers are exact; attention and norms are computed row by row."""
    together = engine.generate(map(asked, PROMPTS))
    alone = [engine.generate([asked(p), asked(PROMPTS[1]), asked(PROMPTS[1])])[0] for p in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.logps, other.logps)


def test_the_divergence_is_said_in_words(model):
    tokenizer = train_tokenizer([PASSAGE], 280)
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size, max_position_embeddings=300)
    line = divergence(model.randomised(config), config, tokenizer, "int8")
    found = re.fullmatch(r"int8: KL to the float model (\S+) nats per token, over 300 tokens of a built-in text", line)
    assert 0 < float(found[1]) < 0.05
