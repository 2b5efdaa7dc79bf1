"""A model with rounded leaves computes what the plain model of the rounded weights does, and trains what it should."""

import jax
import jax.numpy as jnp
import numpy as np
from convert.gguf_models import DENSE, MOE, random

from jaxpo.models.family import family, output_matrix
from jaxpo.models.grids import fake_quantized, placements, rounded_model, unfitting
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves
from jaxpo.ops.fake_quant import FakeQuant
from jaxpo.ops.grids import grid
from jaxpo.ops.linear import einsum

TOKENS = np.random.default_rng(2).integers(0, DENSE.vocab_size, (2, 24))


def is_leaf(x):
    return isinstance(x, FakeQuant)


def logits(params, config, **options):
    inputs = Inputs(TOKENS, jnp.ones(TOKENS.shape, jnp.int32), jnp.broadcast_to(jnp.arange(24), TOKENS.shape))
    hidden, _ = family(config).forward(params, inputs, config=config, dtype=jnp.float32, **options)
    return einsum("rsd,vd->rsv", hidden, output_matrix(params, config))


def test_rounded_leaves_compute_with_the_weights_that_are_handed_on():
    config = MOE
    to, params = grid("q4_0"), random(config)

    @jax.jit
    def both(params):
        leaves, plain = fake_quantized(params, config, to), rounded_model(params, config, to)
        dense = jax.tree.map(lambda x: x.dense() if is_leaf(x) else x, leaves, is_leaf=is_leaf)
        return dense, plain, logits(leaves, config), logits(plain, config), logits(leaves, config, scan=True)

    dense, plain, *found = both(params)
    jax.tree.map(np.testing.assert_array_equal, dense, plain)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[2], found[1], atol=1e-5)


def test_the_gradient_is_that_of_the_rounded_model():
    """With respect to every parameter, experts included: straight through is the gradient at the rounded weights."""
    config = MOE
    to, params = grid("int4"), random(config)

    def loss(params):
        return jnp.mean(jnp.sin(logits(params, config)))

    @jax.jit
    def both(params):
        straight = jax.grad(lambda p: loss(fake_quantized(p, config, to)))(params)
        return straight, jax.grad(loss)(rounded_model(params, config, to))

    for a, b in zip(*map(jax.tree.leaves, both(params)), strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


def test_which_matrices_lie_on_a_grid():
    table, to = param_table(MOE), grid("q4_0")
    found, names = placements(table, MOE, to), dict(leaves(table))
    on = {path: found[id(param)] for path, param in names.items() if id(param) in found}
    assert on["embed_tokens/weight"].grid == grid("int8")
    assert on["layers/1/feed_forward/experts/w2/weight"].axis == 1
    assert on["layers/0/conv/in_proj/weight"].axis == 0
    for left in ("gate/weight", "norm/weight", "conv/conv/weight", "expert_bias/bias"):
        assert not any(path.endswith(left) for path in on)
    assert unfitting(table, MOE, to) == []
    assert "layers/1/feed_forward/experts/w2/weight" in unfitting(table, MOE, grid("int4", 64))


def test_eight_bit_activations_reach_every_product():
    params, to = random(DENSE), grid("8da4w")
    model = fake_quantized(params, DENSE, to)
    count = sum(map(is_leaf, jax.tree.leaves(model, is_leaf=is_leaf)))
    assert count == len(placements(param_table(DENSE), DENSE, to))
    ours, plain = jax.jit(lambda p: [logits(f(p, DENSE, to), DENSE) for f in (fake_quantized, rounded_model)])(params)
    assert 1e-4 < float(jnp.abs(ours - plain).max()) < 3
