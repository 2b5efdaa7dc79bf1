"""Parameter totals, tensor names and table labels from abstract shapes; configuration mistakes."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxpo.convert.hf import disk_shape
from jaxpo.errors import ConfigError
from jaxpo.models.heads import value, value_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.presets import PRESETS, preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params, init_params, leaves, param_count

RELEASED = {
    "lfm2_350m": (354_483_968, 148, (2, 5, 8, 10, 12, 14), 16),
    "lfm2_700m": (742_489_344, 148, (2, 5, 8, 10, 12, 14), 16),
    "lfm2_1_2b": (1_170_340_608, 148, (2, 5, 8, 10, 12, 14), 16),
    "lfm2_2_6b": (2_569_272_320, 266, (2, 5, 9, 13, 17, 21, 24, 27), 30),
}


def _released_shapes(config, attention, layers):
    """Names and shapes as the released checkpoints have them, written out independently of the table."""
    d, f, kv = config.hidden_size, config.intermediate_size, 8 * 64
    names = {"model.embed_tokens.weight": (65536, d), "model.embedding_norm.weight": (d,)}
    for i in range(layers):
        p = f"model.layers.{i}"
        names |= {f"{p}.operator_norm.weight": (d,), f"{p}.ffn_norm.weight": (d,)}
        names |= {f"{p}.feed_forward.{w}.weight": (f, d) for w in ("w1", "w3")}
        names[f"{p}.feed_forward.w2.weight"] = (d, f)
        if i in attention:
            names |= {f"{p}.self_attn.{w}_proj.weight": (d, d) for w in ("q", "out")}
            names |= {f"{p}.self_attn.{w}_proj.weight": (kv, d) for w in ("k", "v")}
            names |= {f"{p}.self_attn.{w}_layernorm.weight": (64,) for w in ("q", "k")}
        else:
            names[f"{p}.conv.in_proj.weight"] = (3 * d, d)
            names[f"{p}.conv.conv.weight"] = (d, 1, 3)
            names[f"{p}.conv.out_proj.weight"] = (d, d)
    return names


@pytest.mark.parametrize("name", list(RELEASED))
def test_totals_names_and_shapes_of_the_released_models(name):
    total, tensors, attention, layers = RELEASED[name]
    config = preset(name)
    table = param_table(config)
    assert param_count(table) == total
    stored = {p.hf: disk_shape(p) for _, p in leaves(table)}
    assert len(stored) == tensors
    assert stored == _released_shapes(config, attention, layers)
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(abstract_params(table))) == total


def test_lfm3_has_the_released_shape():
    """Pattern, parts and total written out; the total is that of transformers' own model (see tests/parity)."""
    config = preset("lfm3_1_7b")
    full, sliding = (2, 6, 10, 14, 18, 22), (4, 8, 12, 16, 20)
    for i, kind in enumerate(config.layer_types):
        assert kind == ("full_attention" if i in full else "sliding_attention" if i in sliding else "conv")
    assert (config.sliding_window, config.sliding_rope_theta, config.rope_theta) == (256, 1e4, 1e6)
    assert config.rotation("full_attention") == (1e6, 32)
    assert config.rotation("sliding_attention") == (1e4, 64)
    d, f, h = 2048, 7680, 128
    conv, attention = 4 * d * d + 7 * d, d * h * (16 + 4 + 4 + 16) + 2 * h + 16 * d
    table = param_table(config)
    assert param_count(table) == 128_000 * d + d + 24 * (3 * d * f + 4 * d) + 13 * conv + 11 * attention
    assert param_count(table) == 1_728_801_536
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(abstract_params(table))) == 1_728_801_536
    stored = {p.hf: disk_shape(p) for _, p in leaves(table)}
    assert {name.removeprefix("model.layers.4."): shape for name, shape in stored.items() if ".4." in name} == {
        "operator_norm.weight": (d,), "post_operator_norm.weight": (d,),
        "ffn_norm.weight": (d,), "post_ffn_norm.weight": (d,),
        "self_attn.q_proj.weight": (d, d), "self_attn.k_proj.weight": (512, d), "self_attn.v_proj.weight": (512, d),
        "self_attn.o_proj.weight": (d, d), "self_attn.gate_proj.weight": (16, d),
        "self_attn.q_norm.weight": (h,), "self_attn.k_norm.weight": (h,),
        "feed_forward.w1.weight": (f, d), "feed_forward.w2.weight": (d, f), "feed_forward.w3.weight": (f, d),
    }  # fmt: skip


def test_an_output_matrix_of_its_own():
    config = dataclasses.replace(preset("nano_lfm3"), tie_word_embeddings=False)
    head = param_table(config)["lm_head"]["weight"]
    assert (head.shape, head.hf) == ((4096, 192), "lm_head.weight")
    assert param_count(param_table(config)) - param_count(param_table(preset("nano_lfm3"))) == 4096 * 192
    assert "lm_head" not in param_table(preset("nano_lfm3"))


@pytest.mark.parametrize("name", ["nano", "nano_lfm3"])
def test_nano_is_a_few_million_without_its_vocabulary(name):
    config = preset(name)
    rest = param_count(param_table(config)) - config.vocab_size * config.hidden_size
    assert 2e6 < rest < 4e6
    assert set(config.layer_types) == {"conv", "full_attention", *(["sliding_attention"] if name != "nano" else [])}
    wider = dataclasses.replace(config, vocab_size=config.vocab_size + 100)
    assert param_count(param_table(wider)) - param_count(param_table(config)) == 100 * config.hidden_size


def test_labels_for_the_optimizer():
    """Everything but norms decays; Muon takes the matrices, not embedding, taps or norms."""
    for name, p in leaves(param_table(preset("nano"))):
        assert p.decay == ("norm" not in name), name
        matrix = p.shape[0] > 3 and len(p.shape) > 1 and "embed_tokens" not in name
        assert (p.muon is not None) == matrix, name
        if p.muon is not None:
            assert p.shape[p.muon[0][0]] * p.shape[p.muon[1][0]] * (3 if "in_proj" in name else 1) == p.size


def test_layouts_move_data_and_nothing_else():
    for name, p in leaves(param_table(preset("nano"))):
        x = np.arange(p.size, dtype=np.float32).reshape(p.shape)
        disk = p.layout.to_disk(x)
        assert disk.shape == disk_shape(p), name
        np.testing.assert_array_equal(p.layout.from_disk(disk, p.shape), x)
    gates = dict(leaves(param_table(preset("nano"))))["layers/0/conv/in_proj/weight"]
    x = np.random.default_rng(0).standard_normal(gates.shape)
    b, c, value_ = np.split(gates.layout.to_disk(x), 3)
    for i, part in enumerate((b, c, value_)):
        np.testing.assert_array_equal(part.T, x[:, i])


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown model preset 'lfm2_1.2b'; did you mean 'lfm2_1_2b'\?"):
        preset("lfm2_1.2b")


@pytest.mark.parametrize(
    ("field", "value_", "message"),
    [
        ("layer_types", ("conv", "attention"), r"layer_types\[1\] is 'attention'.*did you mean 'full_attention'\?"),
        ("layer_types", ("conv", "slidng_attention"), r"'slidng_attention'.*did you mean 'sliding_attention'\?"),
        ("sliding_window", 0, "model.sliding_window is 0; it must be a positive integer"),
        ("sliding_rope_theta", 0.0, "sliding_rope_theta is 0.0; it must be positive"),
        ("partial_rotary_factor", 0.0, r"model.partial_rotary_factor is 0.0; .* in \(0, 1\]"),
        ("partial_rotary_factor", 1.5, r"model.partial_rotary_factor is 1.5; .* in \(0, 1\]"),
        ("partial_rotary_factor", 0.05, "turns no pair of the 32 dimensions of a head; give at least 0.0625"),
        ("model_type", "lfm4", r"model.model_type is 'lfm4'; known: lfm2, lfm3; did you mean 'lfm[23]'\?"),
        ("sandwich_norm", True, "sandwich_norm is on, which 'lfm2' has not; set model.model_type to 'lfm3'"),
        ("attention_gate", True, "attention_gate is on, which 'lfm2' has not"),
        ("tie_word_embeddings", False, "tie_word_embeddings is off, which 'lfm2' has not"),
        ("layer_types", ("sliding_attention",), "layer_types has 'sliding_attention', which 'lfm2' has not"),
        ("layer_types", (), "model.layer_types is empty"),
        ("num_key_value_heads", 4, r"num_attention_heads \(6\) is not divisible by model.num_key_value_heads \(4\)"),
        ("head_dim", 33, "head_dim is 33; .* must be even"),
        ("hidden_size", 0, "hidden_size is 0; it must be a positive integer"),
        ("conv_kernel", 2.5, "conv_kernel is 2.5"),
        ("norm_eps", 0.0, "norm_eps is 0.0; it must be positive"),
        ("eos_token_id", 4096, r"eos_token_id is 4096; it must lie in \[0, vocab_size\)"),
    ],
)
def test_configuration_mistakes_are_named(field, value_, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preset("nano"), **{field: value_})


def test_all_mistakes_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        LFM2Config(hidden_size=-1, layer_types=("cnv",), pad_token_id=-1)
    assert len(caught.value.problems) == 3
    assert "did you mean 'conv'?" in str(caught.value)


def test_configurations_hash_and_lists_become_tuples():
    assert hash(LFM2Config(layer_types=["conv"])) == hash(LFM2Config(layer_types=("conv",)))


def test_presets_import_no_jax():
    code = "import sys, jaxpo.models.lfm2.presets; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_value_head():
    config = preset("nano")
    hidden = np.random.default_rng(0).standard_normal((2, 3, config.hidden_size)).astype(np.float32)
    zero = init_params(value_table(config), jax.random.key(0))
    np.testing.assert_array_equal(value(zero, hidden), np.zeros((2, 3)))
    drawn = init_params(value_table(config, std=0.1), jax.random.key(0))
    assert 0.05 < np.std(drawn["weight"]) < 0.2
    out = value(drawn, hidden.astype("bfloat16"))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, hidden @ np.asarray(drawn["weight"])[:, 0], atol=0.05)
    assert {p.hf for _, p in leaves(value_table(config))} == {None}
    assert set(PRESETS) == {"nano", "nano_lfm3", "lfm3_1_7b", "nano_moe", "lfm2_8b_a1b", "lfm2_24b_a2b", *RELEASED}
