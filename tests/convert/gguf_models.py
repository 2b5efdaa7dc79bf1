"""Models and a tokenizer for GGUF files: heads of hidden / heads, rows of whole blocks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from convert.many_languages import TEXTS

from jaxpo.convert.hf import tensors_of
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, map_table

DENSE = LFM2Config(
    vocab_size=544,
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    max_position_embeddings=4096,
)
MOE = dataclasses.replace(
    DENSE,
    layer_types=("conv", "full_attention", "conv"),
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    num_dense_layers=1,
)


@functools.cache
def tokenizer():
    """Fewer ids than the embedding has rows."""
    return train_tokenizer(list(TEXTS) * 2, 512)


@functools.cache
def random(config):
    rng = np.random.default_rng(1)

    def draw(p):
        if len(p.shape) == 1:
            return jnp.asarray(0.2 * rng.standard_normal(p.shape) + (not p.buffer), jnp.float32)
        return jnp.asarray(0.2 * rng.standard_normal(p.shape), jnp.float32)

    return map_table(draw, param_table(config))


@functools.cache
def trained(config=DENSE, steps=150, rows=8, length=48):
    """A model after some steps on the texts: what rounding costs means nothing on random weights."""
    ids = np.concatenate([[tokenizer().bos_id, *tokenizer().encode(text)] for text in TEXTS])
    starts = np.random.default_rng(0).integers(0, ids.size - length - 1, (steps, rows))
    batches = jnp.asarray(ids[starts[..., None] + np.arange(length + 1)])
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    optimiser = optax.adamw(3e-3)

    def loss(params, tokens):
        hidden, _ = forward(params, tokens[:, :-1], jnp.ones((rows, length), jnp.int32), positions, config=config)
        logits = (hidden @ params["embed_tokens"]["weight"].T).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(carry, tokens):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, tokens)
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params):
        return jax.lax.scan(step, (params, optimiser.init(params)), batches)

    (params, _), losses = run(init_params(param_table(config), jax.random.key(0)))
    assert losses[-5:].mean() < 0.6 * losses[0], "it learnt nothing"
    return params


def write(file, config, kind="f32", own=None, **options):
    """A file of the random model; what it was written from."""
    from jaxpo.convert.gguf.write import write_gguf

    sources = tensors_of(random(config), param_table(config))
    write_gguf(file, sources, config, own or tokenizer(), kind, name="tiny", **options)
    return sources
