"""Models in eight bits: which leaves, what they compute, and how far from the float model that is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny, tiny_moe

from jaxpo.config.precision import compute_dtype
from jaxpo.errors import ConfigError
from jaxpo.models.family import output_matrix
from jaxpo.models.lfm2.forward import forward, init_cache, step
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.quantize import quantization_kl, quantized
from jaxpo.models.spec import leaves
from jaxpo.ops.linear import LowRank, einsum
from jaxpo.ops.quant import Quant
from jaxpo.sharding import make_mesh, use_mesh

MODELS = {
    "lfm2": (tiny.CONFIG, tiny.params),
    "lfm3": (tiny.LFM3, tiny.params),
    "experts": (tiny_moe.CONFIG, lambda config: tiny_moe.params()),
}
FLOAT = ("norm/weight", "layernorm/weight", "conv/conv/weight", "gate/weight", "bias")
TOKENS = tiny.random_tokens(2, 12)


def of(name):
    config, params = MODELS[name]
    return config, params(config)


def whole(params, config):
    ones, positions = np.ones_like(TOKENS), np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    hidden, _ = forward(params, TOKENS, ones, positions, config=config)
    return einsum("rsd,vd->rsv", hidden, output_matrix(params, config), out_dtype=jnp.float32)


once = jax.jit(whole, static_argnames="config")


def logits(params, config):
    return np.asarray(once(params, config=config), np.float64)


def dense(params):
    """The model of the rounded weights, whose activations are not rounded."""
    stands = lambda w: isinstance(w, Quant)  # noqa: E731
    return jax.tree.map(lambda w: w.dense() if stands(w) else w, params, is_leaf=stands)


def divergence(p, q):
    """Mean of KL(p || q) over positions, from logits in float64."""
    p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return (np.exp(p) * (p - q)).sum(-1).mean()


@pytest.mark.parametrize("name", MODELS)
def test_matrices_and_the_output_matrix_are_quantised_and_nothing_else(name):
    config, params = of(name)
    small = quantized(params, config, "int8")
    found = jax.tree.leaves(small, is_leaf=lambda w: isinstance(w, Quant))
    for (path, param), w in zip(leaves(param_table(config)), found, strict=True):
        kept = path.endswith(FLOAT) or (path == "embed_tokens/weight" and not config.tie_word_embeddings)
        assert isinstance(w, Quant) is not kept, path
        assert w.shape == param.shape, path
    assert isinstance(output_matrix(small, config), Quant)
    assert jax.tree.structure(params) == jax.tree.structure(dense(small))


@pytest.mark.parametrize("name", ["lfm2", pytest.param("lfm3", marks=pytest.mark.slow), "experts"])
def test_the_model_is_that_of_rounded_weights_and_close_to_the_float_one(name):
    config, params = of(name)
    small = quantized(params, config)
    exact, rounded, found = (logits(p, config) for p in (params, dense(small), small))
    assert divergence(exact, exact) == 0
    # Random matrices of sixteen channels: both roundings are seen, and both are small.
    assert 0 < divergence(exact, rounded) < 0.02
    assert 0 < divergence(exact, found) < 0.04
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.995


def test_the_divergence_is_the_mean_over_all_positions_of_texts_of_any_length():
    config, params = of("lfm2")
    small = quantized(params, config)
    texts = [TOKENS[0].tolist(), TOKENS[1, :5].tolist()]
    exact, found = logits(params, config), logits(small, config)
    parts = [divergence(exact[i, : len(text)], found[i, : len(text)]) for i, text in enumerate(texts)]
    expected = (12 * parts[0] + 5 * parts[1]) / 17
    assert quantization_kl(params, small, config, texts) == pytest.approx(expected, rel=0.02)
    assert quantization_kl(params, params, config, texts) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ConfigError, match="at least one token of text"):
        quantization_kl(params, small, config, [[]])


@pytest.mark.parametrize("name", ["lfm2", pytest.param("experts", marks=pytest.mark.slow)])
def test_steps_of_any_size_give_what_one_pass_gives(name):
    """Prefill in two chunks, then single tokens."""
    config, params = of(name)
    small = quantized(params, config)
    expected = logits(small, config)
    cache, found = init_cache(config, 2, 16), []
    run = jax.jit(step, static_argnames="config")
    for first, end in ((0, 5), (5, 10), (10, 11), (11, 12)):
        hidden, cache = run(small, TOKENS[:, first:end], cache, config=config)
        found.append(einsum("rsd,vd->rsv", hidden, output_matrix(small, config), out_dtype=jnp.float32))
    # Where a value lies between two integers the last bit of it decides: single steps of an activation.
    apart = np.abs(np.concatenate(found, axis=1) - expected)
    assert np.median(apart) < 1e-4 * np.abs(expected).max()
    assert apart.max() < 0.05 * np.abs(expected).max()


def test_a_mesh_computes_the_same():
    config, params = of("lfm2")
    expected = logits(quantized(params, config), config)
    with use_mesh(make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])):
        spread = jax.jit(lambda params: whole(params, config))
        found = np.asarray(spread(quantized(params, config)), np.float64)
        np.testing.assert_allclose(found, expected, atol=0.05 * expected.max())


def test_what_cannot_be_quantised_is_refused():
    config, params = of("lfm2")
    with pytest.raises(ConfigError, match="quantize is 'int4'; choose 'int8', or leave it out"):
        quantized(params, config, "int4")
    w = params["layers"]["0"]["conv"]["out_proj"]
    adapted = LowRank(w["weight"], jnp.ones((16, 1)), jnp.ones((1, 16)), 1.0)
    layer = params["layers"]["0"]
    layers = params["layers"] | {"0": layer | {"conv": layer["conv"] | {"out_proj": {"weight": adapted}}}}
    with pytest.raises(ConfigError, match="layers/0/conv/out_proj/weight is a LowRank, and only arrays are quantised"):
        quantized(params | {"layers": layers}, config)
    with (
        use_mesh(make_mesh({"fsdp": 2}, jax.devices()[:2])),
        pytest.raises(ConfigError, match="experts of 8-bit integers are not divided among devices"),
    ):
        quantized(*of("experts")[::-1])


def test_a_checkpoints_type_is_not_that_of_products_on_cpu():
    assert compute_dtype(None, "cpu") == "float32"
    assert compute_dtype(None, "gpu") == compute_dtype(None, "tpu") == "bfloat16"
    assert compute_dtype("bfloat16", "cpu") == "bfloat16"
    assert compute_dtype("float32", "tpu") == "float32"


def test_an_embedding_of_its_own_stays_as_it_is():
    config, params = of("lfm3")
    assert quantized(params, config)["embed_tokens"]["weight"] is params["embed_tokens"]["weight"]
