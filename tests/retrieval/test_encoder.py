"""The vectors of queries and documents: check values, packing, and what positions of expansion do to the others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from retrieval.tiny_colbert import CONFIG, DOCUMENTS, QUERY, SKIPPED, params

from jaxpo.errors import ConfigError
from jaxpo.models.family import decoder, family
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.retrieval import VectorHead, pool, project
from jaxpo.ops.maxsim import maxsim

BOTH_WAYS = dataclasses.replace(CONFIG, causal=False)


@functools.partial(jax.jit, static_argnames="config")
def _vectors(params, tokens, segments, keys, positions, config):
    inputs = Inputs(tokens, segments, positions, keys)
    hidden, _ = family(config).forward(params["model"], inputs, config=config)
    return project(params["projection"], hidden, VectorHead())


def vectors(tokens, lengths, config=CONFIG, key=None):
    """Segments of a row, one after another: `[S, E]`."""
    segments = np.repeat(np.arange(len(lengths)) + 1, lengths)[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    keys = segments if key is None else np.where(key, segments, 0)
    with jax.default_matmul_precision("highest"):
        return np.asarray(_vectors(params(config), np.asarray(tokens)[None], segments, keys, positions, config)[0])


KEY = (np.arange(12) < 5)[None]


def test_the_check_values_of_the_tiny_model():
    q = vectors(QUERY, [12], key=KEY)
    np.testing.assert_allclose(q[0, :4], [0.144273, -0.472169, -0.335978, 0.335759], atol=3e-6)
    np.testing.assert_allclose(q[4, :4], [-0.010471, -0.525524, -0.202897, 0.443146], atol=3e-6)
    np.testing.assert_allclose(q[5, :4], [0.330519, 0.433834, -0.154378, -0.496513], atol=3e-6)
    np.testing.assert_allclose(q[11, :4], [0.328097, 0.436020, -0.151068, -0.497355], atol=3e-6)
    scores = []
    for ids in DOCUMENTS:
        d = vectors(ids, [len(ids)])
        scores.append(float(maxsim(jnp.asarray(q), jnp.asarray(d), kept=jnp.asarray(ids) != SKIPPED)))
    np.testing.assert_allclose(scores, [9.936162, 10.647608], atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, BOTH_WAYS], ids=["causal", "bidirectional"])
def test_packed_texts_have_the_vectors_of_single_ones(config):
    packed = vectors([*QUERY, *DOCUMENTS[0], *DOCUMENTS[1]], [12, 7, 5], config, key=np.r_[KEY[0], [True] * 12][None])
    alone = [vectors(QUERY, [12], config, key=KEY), *(vectors(ids, [len(ids)], config) for ids in DOCUMENTS)]
    np.testing.assert_allclose(packed, np.concatenate(alone), atol=2e-6)


def test_expansion_reaches_no_real_token_of_a_causal_model_and_one_per_convolution_of_a_bidirectional_one():
    short, whole = vectors(QUERY[:5], [5]), vectors(QUERY, [12], key=KEY)
    np.testing.assert_allclose(whole[:5], short, atol=1e-6)
    short, whole = vectors(QUERY[:5], [5], BOTH_WAYS), vectors(QUERY, [12], BOTH_WAYS, key=KEY)
    change = np.abs(whole[:5] - short).max(axis=1)
    # The last real token's convolution reads the first pad; attention then carries that token to all others.
    assert change[4] > 1e-4
    one_layer = dataclasses.replace(BOTH_WAYS, layer_types=("conv",))
    short, whole = vectors(QUERY[:5], [5], one_layer), vectors(QUERY, [12], one_layer, key=KEY)
    change = np.abs(whole[:5] - short).max(axis=1)
    assert change[4] > 1e-4
    np.testing.assert_allclose(change[:4], 0, atol=1e-6)


def test_a_bidirectional_model_sees_both_ways_and_generates_nothing():
    ids = np.array(DOCUMENTS[1])
    other = ids.copy()
    other[-1] = 30
    assert np.abs(vectors(ids, [5], BOTH_WAYS) - vectors(other, [5], BOTH_WAYS))[0].max() > 1e-4
    np.testing.assert_allclose(vectors(ids, [5])[:4], vectors(other, [5])[:4], atol=1e-7)
    with pytest.raises(ConfigError, match="looks both ways"):
        decoder(BOTH_WAYS)


@pytest.mark.parametrize("other", [{"num_experts": 4}, {"model_type": "lfm3"}])
def test_other_kinds_of_models_do_not_look_both_ways(other):
    with pytest.raises(ConfigError, match="bidirectional models are dense"):
        LFM2Config(causal=False, **other)


def test_pooling():
    hidden, key = jnp.arange(24.0).reshape(2, 4, 3), jnp.asarray([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    np.testing.assert_allclose(pool(hidden, key, "mean"), [[3, 4, 5], [13.5, 14.5, 15.5]])
    np.testing.assert_allclose(pool(hidden, key, "cls"), [[0, 1, 2], [12, 13, 14]])
    np.testing.assert_allclose(pool(hidden, key, "last"), [[6, 7, 8], [15, 16, 17]])


def test_dense_layers_are_a_chain_with_bias_activation_and_residual():
    rng = np.random.default_rng(0)
    w, b, v, r = (rng.normal(size=s).astype(np.float32) for s in ((3, 4), (4,), (4, 2), (4, 2)))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    layers = {"0": {"weight": jnp.asarray(w), "bias": jnp.asarray(b)}, "1": {"weight": v, "residual": r}}
    got = project(layers, jnp.asarray(x), VectorHead(activations=("tanh", "identity"), normalize=False))
    inner = np.tanh(x.astype(np.float64) @ w + b)
    np.testing.assert_allclose(got, inner @ v + inner @ r, rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(project(layers, jnp.asarray(x), VectorHead(activations=("tanh", "identity"))), axis=-1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
