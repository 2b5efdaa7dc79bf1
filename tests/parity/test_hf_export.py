"""Our exports in transformers: weights, configuration, greedy continuation, tokenizer and chat template."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from parity.lfm2_pair import SHAPES, make_pair  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from jaxpo.convert.config_json import config_from_json  # noqa: E402
from jaxpo.convert.hf import disk_shape, export_hf, import_hf  # noqa: E402
from jaxpo.data.chat.chat import render, text_of  # noqa: E402
from jaxpo.data.tokenizer.tokenizer import train_tokenizer  # noqa: E402
from jaxpo.models.document import Document  # noqa: E402
from jaxpo.models.lfm2.config import LFM2Config  # noqa: E402
from jaxpo.models.lfm2.config_json import feed_forward_width  # noqa: E402
from jaxpo.models.lfm2.presets import preset  # noqa: E402
from jaxpo.models.lfm2.table import param_table  # noqa: E402
from jaxpo.models.spec import init_params, leaves, param_count  # noqa: E402
from jaxpo.sampling.fitted import fitted  # noqa: E402
from jaxpo.sampling.request import Request  # noqa: E402
from jaxpo.sampling.sampler import GREEDY  # noqa: E402


@pytest.fixture(scope="module", params=["lfm2", "lfm3"])
def model(request):
    """Heads wider than hidden / heads, and logits of std > 1."""
    config = LFM2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        layer_types=("conv", "full_attention", "conv", "full_attention"),
        initializer_range=0.35,
    )
    if request.param == "lfm3":
        config = dataclasses.replace(
            config,
            model_type="lfm3",
            layer_types=("conv", "full_attention", "conv", "sliding_attention"),
            conv_kernel=7,
            sliding_window=6,
            partial_rotary_factor=0.5,
            sandwich_norm=True,
            attention_gate=True,
            tie_word_embeddings=False,
        )
    return init_params(param_table(config), jax.random.key(3)), config


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    params, config = model
    folder = tmp_path_factory.mktemp("export") / "model"
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog\n" * 20], 320)
    report = export_hf(params, config, folder, tokenizer=tokenizer, max_shard_size="20KB")
    return folder, report


def test_transformers_computes_the_same_and_the_report_says_so(export):
    folder, report = export
    assert report["transformers"]["max_logprob_error"] < 1e-4
    assert report["max_logprob_error"] < 1e-4
    assert abs(report["kl"]) < 1e-8
    assert json.loads((folder / "verification.json").read_text()) == report


@pytest.mark.parametrize("shape", list(SHAPES))
def test_round_trip_of_a_transformers_file_is_bit_exact(shape, tmp_path):
    pair = make_pair(shape, tmp_path / "theirs")
    export_hf(pair.params, pair.config, tmp_path / "ours", compare_transformers=False)
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert value.dtype == ours[name].dtype
        np.testing.assert_array_equal(value, ours[name])


def test_config_is_read_alike(export):
    folder, _ = export
    theirs = transformers.AutoConfig.from_pretrained(folder)
    ours = config_from_json(json.loads((folder / "config.json").read_text()))
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 7, 0)
    assert tuple(theirs.layer_types) == ours.layer_types
    assert theirs.head_dim == ours.head_dim
    if ours.model_type == "lfm3":
        assert theirs.rope_parameters["full_attention"]["rope_theta"] == ours.rope_theta
        assert theirs.rope_parameters["sliding_attention"]["rope_theta"] == ours.sliding_rope_theta
        assert (theirs.sliding_window, theirs.tie_word_embeddings) == (6, False)
    else:
        assert theirs.rope_parameters["rope_theta"] == ours.rope_theta
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == 7
    assert transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_auto_adjust_ff_dim": False},
        {"block_ffn_dim_multiplier": 1.3, "block_multiple_of": 24},
        {"block_ff_dim": 90},
    ],
)
def test_feed_forward_width_rule(options):
    config = transformers.Lfm2Config(
        vocab_size=8, hidden_size=8, intermediate_size=100, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=1, **options,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Lfm2ForCausalLM(config)
    document = {"intermediate_size": 100, **options}
    assert feed_forward_width(Document(document)) == model.model.layers[0].feed_forward.w1.out_features


def test_lfm3s_preset_is_transformers_default_model():
    """Names, shapes and total, on the meta device."""
    with torch.device("meta"):
        theirs = transformers.Lfm3ForCausalLM(transformers.Lfm3Config())
    named = {name.replace(".g_proj.", ".gate_proj."): tuple(p.shape) for name, p in theirs.named_parameters()}
    config = preset("lfm3_1_7b")
    assert named == {p.hf: disk_shape(p) for _, p in leaves(param_table(config))}
    assert sum(p.numel() for p in theirs.parameters()) == param_count(param_table(config)) == 1_728_801_536
    assert config_from_json(transformers.Lfm3Config().to_dict()) == config


def test_greedy_continuation_is_the_same(model, export):
    """What `jaxpo generate` runs, until the two best logits come closer than 1e-4, where rounding decides."""
    params, config = model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export[0])
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, config.vocab_size, length).tolist() for length in (1, 2, 9)]
    requests = [Request(prompt, max_new_tokens=40, sampler=GREEDY, stop_ids=()) for prompt in prompts]
    ours = fitted(params, config, requests).generate(requests)
    compared = 0
    for prompt, generation in zip(prompts, ours, strict=True):
        out = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=40,
            min_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.topk(torch.stack(out.logits, 1)[0], 2).values
        close = (best[:, 0] - best[:, 1] < 1e-4).tolist()
        until = close.index(True) if True in close else len(close)
        assert out.sequences[0, len(prompt) : len(prompt) + until].tolist() == list(generation.tokens)[:until]
        compared += until
    assert compared >= 60


def test_bfloat16_export_loads_as_bfloat16(model, tmp_path):
    params, config = model
    report = export_hf(params, config, tmp_path / "half", dtype="bfloat16")
    assert report["transformers"]["max_logprob_error"] < 1e-4
    assert 1e-4 < report["rounding"]["max_logprob_error"] < 1
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    again, _ = import_hf(tmp_path / "half", dtype=jnp.bfloat16)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), again, params)


CONVERSATIONS = {
    "plain": ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello\n"}], None),
    "system": ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], None),
    "tools": ([{"role": "user", "content": "w?"}], [{"name": "weather", "args": {"city": "Zürich"}}]),
    "system and tools": (
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "w?"},
            {"role": "assistant", "content": '<|tool_call_start|>[weather(city="a")]<|tool_call_end|>'},
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": {"mm": 3}},
        ],
        [{"name": "weather"}],
    ),
}


@pytest.mark.parametrize("name", list(CONVERSATIONS))
@pytest.mark.parametrize("prompt", [False, True])
def test_exported_chat_template_is_our_renderer(export, name, prompt):
    messages, tools = CONVERSATIONS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(export[0])
    theirs = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    assert theirs == text_of(render(messages, tools=tools, add_generation_prompt=prompt))
