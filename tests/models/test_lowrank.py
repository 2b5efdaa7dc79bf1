"""Adapters: what patterns choose, the table they make, how they join the model and leave it."""

import jax
import numpy as np
import pytest
from models.adapters import drawn
from models.tiny import CONFIG, LFM3, assert_trees_close, hidden_and_gradient, params, random_tokens

from jaxpo.config import LoRA
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.presets import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import (
    adapter_leaves,
    adapter_table,
    attach,
    describe_adapter,
    is_projection,
    matched,
    merge,
    scale_of,
)
from jaxpo.models.spec import init_params, leaves, param_count, param_shardings
from jaxpo.ops.linear import LowRank
from jaxpo.sharding import make_mesh

TABLE = param_table(CONFIG)
PROJECTIONS = {
    *(f"layers/{i}/conv/{n}/weight" for i in (0, 2) for n in ("in_proj", "out_proj")),
    *(f"layers/1/self_attn/{n}/weight" for n in ("q_proj", "k_proj", "v_proj", "out_proj")),
    *(f"layers/{i}/feed_forward/{n}/weight" for i in (0, 1, 2) for n in ("w1", "w2", "w3")),
}


def test_all_linear_is_every_projection_and_nothing_else():
    assert set(matched(TABLE, ("all-linear",))) == PROJECTIONS
    assert {path for path, p in leaves(TABLE) if is_projection(p)} == PROJECTIONS


def test_lfm3s_gates_are_projections_too():
    table = param_table(LFM3)
    names = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj")
    expected = {f"layers/{i}/self_attn/{n}/weight" for i in (1, 2) for n in names}
    expected |= {f"layers/0/conv/{n}/weight" for n in ("in_proj", "out_proj")}
    expected |= {f"layers/{i}/feed_forward/{w}/weight" for i in (0, 1, 2) for w in ("w1", "w2", "w3")}
    assert set(matched(table, ("all-linear",))) == expected
    gate = adapter_table(table, LoRA(rank=3))["layers"]["2"]["self_attn"]["gate_proj"]["weight"]
    # PEFT wraps modules: transformers calls this one g_proj, though a checkpoint says gate_proj.
    assert gate["a"].hf == "base_model.model.model.layers.2.self_attn.g_proj.lora_A.weight"
    assert gate["b"].shape == (3, LFM3.num_attention_heads)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("*/q_proj/weight",), {"layers/1/self_attn/q_proj/weight"}),
        (("*/in_proj/weight", "layers/2/*/w1/weight"),
         {"layers/0/conv/in_proj/weight", "layers/2/conv/in_proj/weight", "layers/2/feed_forward/w1/weight"}),
        (("*/w[12]/weight",), {f"layers/{i}/feed_forward/{w}/weight" for i in (0, 1, 2) for w in ("w1", "w2")}),
        (("layers/1/*_proj/weight", "layers/1/*/q_proj/*"),
         {f"layers/1/self_attn/{n}/weight" for n in ("q_proj", "k_proj", "v_proj", "out_proj")}),
    ],
)  # fmt: skip
def test_patterns(patterns, expected):
    assert set(matched(TABLE, patterns)) == expected
    found = {path for path, _, _ in adapter_leaves(adapter_table(TABLE, LoRA(rank=2, target_modules=patterns)))}
    assert found == expected


def problems(*patterns):
    with pytest.raises(ConfigError) as caught:
        adapter_table(TABLE, LoRA(target_modules=patterns))
    return caught.value.problems


def test_a_pattern_that_matches_nothing_is_named_with_near_ones():
    found = problems("q_proj", "*/qproj/weight", "model.layers.0.conv.in_proj", "zzz", "*/w1/weight")
    assert [p.partition(" matches")[0] for p in found] == [
        f"lora.target_modules: {p!r}" for p in ("q_proj", "*/qproj/weight", "model.layers.0.conv.in_proj", "zzz")
    ]
    assert "Did you mean '*/q_proj/weight'" in found[0]
    assert "'*/q_proj/weight'" in found[1]
    assert "'*/in_proj/weight'" in found[2]
    assert "Projections are '*/in_proj/weight', " in found[3]
    assert "'all-linear' means all of them" in found[3]


@pytest.mark.parametrize(
    ("pattern", "leaf"),
    [
        ("*layernorm/weight", "layers/1/self_attn/k_layernorm/weight"),
        ("*/conv/weight", "layers/0/conv/conv/weight"),
        ("embed_tokens/*", "embed_tokens/weight"),
        ("*", "embed_tokens/weight, embedding_norm/weight"),
    ],
)
def test_leaves_that_are_no_matrices_are_refused(pattern, leaf):
    (problem,) = problems(pattern)
    assert leaf in problem
    assert "narrow the pattern" in problem


def test_the_table_follows_the_base():
    adapter = adapter_table(TABLE, LoRA(rank=3))
    named, base = dict(leaves(adapter)), dict(leaves(TABLE))
    for path, a, b in adapter_leaves(adapter):
        w = base[path]
        assert (a.shape, b.shape) == ((w.shape[0], 3), (3, *w.shape[1:]))
        assert (a.axes, b.axes) == ((w.axes[0], None), (None, *w.axes[1:]))
        assert a.decay is b.decay is w.decay
        module = f"base_model.model.{w.hf.removesuffix('.weight')}"
        assert (a.hf, b.hf) == (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
        for p in (a, b):
            value = np.arange(p.size, dtype=np.float32).reshape(p.shape)
            np.testing.assert_array_equal(p.layout.from_disk(p.layout.to_disk(value), p.shape), value)
        assert a.layout.to_disk(np.zeros(a.shape)).shape == (3, w.shape[0])
        assert b.layout.to_disk(np.zeros(b.shape)).shape == (int(np.prod(w.shape[1:])), 3)
    assert len(named) == 2 * len(PROJECTIONS)
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    spec = param_shardings(adapter, mesh)["layers"]["0"]["conv"]["in_proj"]["weight"]
    assert tuple(spec["a"].spec) == (("fsdp", "expert"), None)
    assert tuple(spec["b"].spec) == (None, None, "tensor")


@pytest.mark.parametrize(("init", "deviation"), [("kaiming", 192**-0.5 / 3**0.5), ("gaussian", 1 / 4)])
def test_initial_values(init, deviation):
    table = {"w": param_table(preset("nano"))["layers"]["0"]["conv"]["in_proj"]["weight"]}
    adapter = adapter_table(table, LoRA(rank=4, init=init, target_modules=("w",)))
    values = init_params(adapter, jax.random.key(0))["w"]
    assert values["a"].shape == (192, 4)
    assert np.std(values["a"]) == pytest.approx(deviation, rel=0.1)
    assert (np.max(np.abs(values["a"])) <= 192**-0.5) == (init == "kaiming")
    assert not np.any(values["b"])


def test_scale():
    assert scale_of(LoRA(rank=16, alpha=8)) == 0.5
    assert scale_of(LoRA(rank=16, alpha=8, use_rslora=True)) == 2.0


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def batch():
    tokens = random_tokens(2, 9)
    segments = np.where(np.arange(9) < 5, 1, 2) * np.ones((2, 1), int)
    positions = np.where(np.arange(9) < 5, np.arange(9), np.arange(9) - 5) * np.ones((2, 1), int)
    weight = np.random.default_rng(1).standard_normal((2, 9, CONFIG.hidden_size)).astype(np.float32)
    return tokens, segments, positions, weight


def test_an_adapter_at_its_start_is_the_base_bit_for_bit():
    adapter = init_params(adapter_table(TABLE, LoRA(rank=3)), jax.random.key(0))
    hidden, gradient = hidden_and_gradient(params(), *batch())
    adapted, its = hidden_and_gradient(attach(params(), adapter, 2.0), *batch())
    np.testing.assert_array_equal(adapted, hidden)
    w1 = ("layers", "0", "feed_forward", "w1", "weight")
    assert_trees_close(at(its, w1).base, at(gradient, w1))
    for x, y in zip(jax.tree.leaves(merge(params(), adapter, 2.0)), jax.tree.leaves(params()), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("config", [CONFIG, LFM3], ids=["lfm2", "lfm3"])
def test_merged_and_attached_compute_the_same_and_their_gradients_agree(config):
    lora = LoRA(rank=3, alpha=2.0)
    adapter = drawn(adapter_table(param_table(config), lora))
    scale = scale_of(lora)
    base = params(config)
    hidden, dense = hidden_and_gradient(merge(base, adapter, scale), *batch(), config=config)
    adapted, its = hidden_and_gradient(attach(base, adapter, scale), *batch(), config=config)
    np.testing.assert_allclose(adapted, hidden, atol=2e-4)
    assert np.max(np.abs(hidden - hidden_and_gradient(base, *batch(), config=config)[0])) > 0.1
    is_low_rank = lambda x: isinstance(x, LowRank)  # noqa: E731
    pairs = zip(jax.tree.leaves(its, is_leaf=is_low_rank), jax.tree.leaves(dense), strict=True)
    expected, got = [], []
    weights = jax.tree.leaves(attach(base, adapter, scale), is_leaf=is_low_rank)
    for w, (gradient, full) in zip(weights, pairs, strict=True):
        if not is_low_rank(w):
            expected.append(full)
            got.append(gradient)
            continue
        axes = tuple(range(1, full.ndim))
        da, db = np.tensordot(full, w.b, axes=(axes, axes)), np.tensordot(w.a, full, axes=(0, 0))
        expected += [full, scale * da, scale * db]
        got += [gradient.base, gradient.a, gradient.b]
    assert_trees_close(got, expected, 2e-4)


def test_the_base_is_used_as_it_lies_there():
    base = params()
    attached = attach(base, init_params(adapter_table(TABLE, LoRA()), jax.random.key(0)), 1.0)
    assert attached["embed_tokens"]["weight"] is base["embed_tokens"]["weight"]
    name = ("layers", "0", "conv", "in_proj", "weight")
    assert at(attached, name).base is at(base, name)


def test_the_printed_table_adds_up():
    config = preset("lfm2_350m")
    table = param_table(config)
    lora = LoRA(rank=8, target_modules=("*/in_proj/weight", "*/w1/weight"))
    adapter = adapter_table(table, lora)
    lines = describe_adapter(table, adapter, lora)
    assert lines[0].split() == ["path", "layers", "shape", "rank", "parameters", "share"]
    assert lines[1].split("  ")[0] == "layers/*/conv/in_proj/weight"
    assert "0-1, 3-4, 6-7, 9, 11, 13, 15" in lines[1]
    assert "[1024, 3, 1024]" in lines[1]
    size = 10 * 8 * (1024 + 3 * 1024)
    assert f"{size:,}" in lines[1]
    assert f"{size / param_count(table):.2%}" in lines[1]
    total = size + 16 * 8 * (1024 + 4608)
    share = total / param_count(table)
    assert lines[-1].startswith(f"LoRA: {total:,} trainable parameters, {share:.2%} of the model's")
    assert param_count(adapter) == total
    assert len(lines) == 4
