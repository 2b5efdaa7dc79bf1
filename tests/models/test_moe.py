"""Mixtures of experts: exact counts, the router against float64, and the invariances of the dense model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import assert_trees_close
from models.tiny_moe import CONFIG, hidden_and_gradient, params

from jaxpo.convert.hf import disk_shape
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.experts import active_fraction, expert_outputs, mixture
from jaxpo.models.lfm2.forward import forward, init_cache, step
from jaxpo.models.lfm2.presets import preset
from jaxpo.models.lfm2.router import route, router_sums
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves, param_count
from jaxpo.train.flops import training_flops_per_token

WIDTH = 24


@pytest.mark.parametrize(
    ("name", "total", "active", "bias", "tensors"),
    [
        ("lfm2_8b_a1b", 8_339_929_856, 1_557_740_288, 704, 2 + 24 * 2 + 18 * 3 + 6 * 6 + 2 * 3 + 22 * (2 + 32 * 3)),
        (
            "lfm2_24b_a2b",
            23_843_659_008,
            2_326_879_488,
            2_432,
            2 + 40 * 2 + 30 * 3 + 10 * 6 + 2 * 3 + 38 * (2 + 64 * 3),
        ),
    ],
)
def test_totals_and_active_counts_of_the_released_models(name, total, active, bias, tensors):
    config = preset(name)
    table = param_table(config)
    assert param_count(table) == total
    assert round(sum(p.size * active_fraction(p, config) for _, p in leaves(table) if not p.buffer)) == active
    assert sum(p.size for _, p in leaves(table) if p.buffer) == bias
    stored = {tensor: disk_shape(p) for _, p in leaves(table) for tensor in p.tensors}
    assert len(stored) == tensors
    f, e, prefix = config.moe_intermediate_size, config.num_experts, "model.layers.2.feed_forward"
    assert stored[f"{prefix}.gate.weight"] == (e, 2048)
    assert stored[f"{prefix}.expert_bias"] == (e,)
    assert stored[f"{prefix}.experts.{e - 1}.w1.weight"] == stored[f"{prefix}.experts.0.w3.weight"] == (f, 2048)
    assert stored[f"{prefix}.experts.{e - 1}.w2.weight"] == (2048, f)
    assert stored["model.layers.1.feed_forward.w1.weight"] == (config.intermediate_size, 2048)


def test_flops_count_what_a_token_is_multiplied_with():
    config = preset("lfm2_8b_a1b")
    vectors = sum(p.size for _, p in leaves(param_table(config)) if len(p.shape) == 1 and not p.buffer)
    assert training_flops_per_token(config, 0.0) == 6.0 * (1_557_740_288 - vectors)


def test_labels_of_router_and_experts():
    named = dict(leaves(param_table(CONFIG)))
    bias, gate = named["layers/1/feed_forward/expert_bias/bias"], named["layers/1/feed_forward/gate/weight"]
    assert bias.buffer
    assert not bias.decay
    assert bias.dtype(jnp.bfloat16) == jnp.float32
    assert gate.decay
    assert gate.muon is None
    experts = named["layers/2/feed_forward/experts/w2/weight"]
    assert experts.muon == ((1,), (2,))
    assert experts.axes[0] == "expert"
    assert experts.shape == (8, 12, 16)
    assert "layers/0/feed_forward/w1/weight" in named


def _router_reference(x, gate, bias, k, scale):
    scores = 1 / (1 + np.exp(-np.asarray(x, np.float64) @ np.asarray(gate, np.float64)))
    chosen = np.argsort(-(scores + np.asarray(bias, np.float64)), axis=-1, kind="stable")[..., :k]
    weights = np.take_along_axis(scores, chosen, -1)
    return chosen, weights / (weights.sum(-1, keepdims=True) + 1e-6) * scale


def test_router_against_float64():
    p = params()["layers"]["1"]["feed_forward"]
    x = np.random.default_rng(0).standard_normal((2, WIDTH, 16)).astype(np.float32)
    routing = route(p, x, CONFIG)
    chosen, weights = _router_reference(x, p["gate"]["weight"], p["expert_bias"]["bias"], 3, 1.5)
    np.testing.assert_array_equal(routing.experts, chosen)
    np.testing.assert_allclose(routing.weights, weights, rtol=1e-5)
    np.testing.assert_allclose(np.sum(routing.weights, -1), 1.5, rtol=1e-5)
    halves = route(p, x.astype("bfloat16"), CONFIG)
    assert halves.logits.dtype == halves.weights.dtype == jnp.float32


def test_the_bias_changes_the_selection_and_never_the_weights_of_a_selection():
    p = params()["layers"]["1"]["feed_forward"]
    x = np.random.default_rng(0).standard_normal((1, WIDTH, 16)).astype(np.float32)
    favoured = route(p | {"expert_bias": {"bias": jnp.full((8,), 5.0).at[:3].set(0.0)}}, x, CONFIG)
    assert np.asarray(favoured.experts).min() >= 3
    assert (np.asarray(route(p, x, CONFIG).experts) < 3).any()
    shifted = route(p | {"expert_bias": {"bias": p["expert_bias"]["bias"] + 3.0}}, x, CONFIG)
    np.testing.assert_array_equal(shifted.experts, route(p, x, CONFIG).experts)
    np.testing.assert_array_equal(shifted.weights, route(p, x, CONFIG).weights)
    scores = np.take_along_axis(np.asarray(favoured.scores), np.asarray(favoured.experts), -1)
    np.testing.assert_allclose(favoured.weights, 1.5 * scores / (scores.sum(-1, keepdims=True) + 1e-6), rtol=1e-6)


@pytest.mark.parametrize("experts", [None, "ragged_dot"])
def test_layer_against_every_expert_by_itself_in_float64(experts):
    p = params()["layers"]["1"]["feed_forward"]
    x = np.random.default_rng(2).standard_normal((WIDTH, 16)).astype(np.float32)
    routing = route(p, x, CONFIG)
    outputs = jax.jit(functools.partial(expert_outputs, implementation=experts))
    y = outputs(p["experts"], x, routing.experts, routing.weights)
    w1, w2, w3 = (np.asarray(p["experts"][n]["weight"], np.float64) for n in ("w1", "w2", "w3"))
    expected = np.zeros_like(x, np.float64)
    for t in range(WIDTH):
        for e, w in zip(np.asarray(routing.experts[t]), np.asarray(routing.weights[t]), strict=True):
            gate = x[t] @ w1[e]
            expected[t] += w * ((gate / (1 + np.exp(-gate)) * (x[t] @ w3[e])) @ w2[e])
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("experts", [None, "ragged_dot"])
def test_no_rows_are_no_result_and_no_gradient(experts):
    p = params()["layers"]["1"]["feed_forward"]

    def f(p, x):
        return mixture(p, x, jnp.ones((0, 5), bool), CONFIG, implementation=experts)

    (y, sums), pull = jax.vjp(f, p, jnp.ones((0, 5, 16)))
    assert y.shape == (0, 5, 16)
    assert sums.load.shape == (0, CONFIG.num_experts)
    assert all(not np.any(g) for g in jax.tree.leaves(pull((y, sums))[0]))


def _tokens(seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (1, WIDTH))


def _place(lengths, starts):
    segments, positions = np.zeros((1, WIDTH), np.int32), np.zeros((1, WIDTH), np.int32)
    for i, (n, s) in enumerate(zip(lengths, starts, strict=True)):
        segments[0, s : s + n], positions[0, s : s + n] = i + 1, np.arange(n)
    return segments, positions


def _weight():
    return np.random.default_rng(1).standard_normal((1, WIDTH, CONFIG.hidden_size)).astype(np.float32)


def test_packed_equals_separate_in_value_gradient_and_load():
    """With padding inside and at the end, whatever stands in it: nothing is routed there."""
    lengths, starts = (1, 9, 2, 7), (0, 1, 11, 15)
    tokens, weight = _tokens(), _weight()
    segments, positions = _place(lengths, starts)
    tokens[segments == 0] = -100
    weight *= segments[..., None] > 0
    hidden, sums, gradient = hidden_and_gradient(params(), tokens, segments, positions, weight)
    total, loads = jax.tree.map(jnp.zeros_like, params()), jax.tree.map(jnp.zeros_like, sums)
    for n, s in zip(lengths, starts, strict=True):
        alone_tokens, alone_weight = np.zeros_like(tokens), np.zeros_like(weight)
        alone_tokens[0, :n], alone_weight[0, :n] = tokens[0, s : s + n], weight[0, s : s + n]
        alone, part, grads = hidden_and_gradient(params(), alone_tokens, *_place((n,), (0,)), alone_weight)
        np.testing.assert_allclose(hidden[0, s : s + n], alone[0, :n], atol=3e-5)
        total, loads = jax.tree.map(jnp.add, total, grads), jax.tree.map(jnp.add, loads, part)
    assert_trees_close(gradient, total, 1e-4)
    assert_trees_close(sums, loads, 1e-5)
    np.testing.assert_array_equal(sums.tokens, [19])
    np.testing.assert_array_equal(np.sum(sums.load, -1), [[19 * 3] * 2])
    np.testing.assert_allclose(np.sum(sums.share, -1), [[19] * 2], rtol=1e-5)


def test_a_token_does_not_depend_on_the_load_that_others_make():
    """All other tokens equal, so that their experts are crowded: a layout with a capacity would drop some."""
    place, tokens = _place((WIDTH,), (0,)), _tokens()
    crowded = np.full_like(tokens, 5)
    crowded[0, :8] = tokens[0, :8]
    a, _, _ = hidden_and_gradient(params(), tokens, *place, _weight())
    b, sums, _ = hidden_and_gradient(params(), crowded, *place, _weight())
    np.testing.assert_allclose(a[0, :8], b[0, :8], atol=1e-5)
    assert np.max(sums.load) > 2 * np.mean(sums.load)


def test_the_expert_bias_carries_no_gradient_and_everything_else_does():
    _, sums, gradient = hidden_and_gradient(params(), _tokens(), *_place((WIDTH,), (0,)), _weight())
    for row, i in enumerate(("1", "2")):
        fed = gradient["layers"][i]["feed_forward"]
        np.testing.assert_array_equal(fed["expert_bias"]["bias"], 0)
        assert np.abs(fed["gate"]["weight"]).max() > 1e-3
        for name in ("w1", "w2", "w3"):
            moved = np.abs(fed["experts"][name]["weight"]).max(axis=(1, 2)) > 0
            np.testing.assert_array_equal(moved, sums.load[0, row] > 0)


@pytest.mark.parametrize("remat", ["full", pytest.param("dots", marks=pytest.mark.slow)])
def test_recomputation_changes_nothing(remat):
    args = params(), _tokens(), *_place((20,), (0,)), _weight()
    assert_trees_close(hidden_and_gradient(*args, remat=remat), hidden_and_gradient(*args), 1e-5)


@pytest.mark.parametrize("chunks", [pytest.param((13,), marks=pytest.mark.slow), (1,) * 13, (1, 5, 2, 5)])
def test_cached_decoding_is_the_packed_forward(chunks):
    tokens = np.random.default_rng(5).integers(0, CONFIG.vocab_size, (2, 13))
    positions = np.broadcast_to(np.arange(13), tokens.shape)
    expected, _ = _whole(params(), tokens, np.ones_like(tokens), positions)
    cache, start, outs = init_cache(CONFIG, 2, 13), 0, []
    for n in chunks:
        hidden, cache = _step(params(), tokens[:, start : start + n], cache)
        outs.append(hidden)
        start += n
    np.testing.assert_allclose(np.concatenate(outs, 1), expected, atol=3e-5)


def test_a_row_without_valid_tokens_is_sent_to_no_expert():
    tokens = np.random.default_rng(5).integers(0, CONFIG.vocab_size, (2, 5))
    valid = np.array([[False] * 5, [True] * 5])
    a, cache = _step(params(), tokens, init_cache(CONFIG, 2, 13), valid=valid)
    tokens[0] = 7
    b, _ = _step(params(), tokens, init_cache(CONFIG, 2, 13), valid=valid)
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(cache.length, [0, 5])


_step = jax.jit(functools.partial(step, config=CONFIG))
_whole = jax.jit(functools.partial(forward, config=CONFIG))


def test_sums_count_real_tokens_in_float64():
    p = params()["layers"]["1"]["feed_forward"]
    x = np.random.default_rng(3).standard_normal((2, 6, 16)).astype(np.float32)
    real = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    routing = route(p, x, CONFIG)
    sums = router_sums(routing, real)
    logits = x.astype(np.float64) @ np.asarray(p["gate"]["weight"], np.float64)
    scores = 1 / (1 + np.exp(-logits))
    keep = real[..., None]
    np.testing.assert_allclose(sums.share, ((scores / scores.sum(-1, keepdims=True)) * keep).sum(1), atol=1e-5)
    np.testing.assert_allclose(sums.z, (np.log(np.exp(logits).sum(-1)) ** 2 * real).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums.tokens, [5, 0])
    expected = [np.bincount(np.asarray(routing.experts)[r][real[r]].ravel(), minlength=8) for r in range(2)]
    np.testing.assert_array_equal(sums.load, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok is 9 and there are 8 experts \(model.num_experts\)"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0; it must be a positive integer"),
        ({"num_experts": -1}, "num_experts is -1; it must be a positive integer, or 0 for a dense model"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({"num_dense_layers": 3}, "num_dense_layers is 3; it must leave at least one of the 3 layers"),
        ({"routed_scaling_factor": 0.0}, "routed_scaling_factor is 0.0; it must be positive"),
    ],
)
def test_configuration_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_dense_model_ignores_the_fields_of_experts():
    dense = dataclasses.replace(CONFIG, num_experts=0, num_experts_per_tok=99)
    assert not any("experts" in name for name, _ in leaves(param_table(dense)))
