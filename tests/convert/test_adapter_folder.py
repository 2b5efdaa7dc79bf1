"""PEFT adapter folders wherever a model is read: added to the base that they name, or refused with what merges them."""

import contextlib
import json
import re
import shutil

import jax
import numpy as np
import pytest
from models.adapters import drawn
from models.tiny import CONFIG, LFM3, params
from models.tiny_moe import CONFIG as MOE
from models.tiny_moe import params as moe_params
from safetensors.numpy import load_file, save_file

from jaxpo.cli.main import main
from jaxpo.config import LoRA
from jaxpo.convert.adapter_folder import base_of
from jaxpo.convert.folder import open_folder
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.model_io import load_model, near_tokenizer, read_config, read_heads
from jaxpo.convert.open_model import open_model
from jaxpo.convert.peft import export_peft
from jaxpo.convert.verify import check_errors, compare_files
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of
from jaxpo.models.spec import leaves

LORA = LoRA(rank=3, alpha=2.5, use_rslora=True)
QUIET = {"verify": False}


def make(folder, config=CONFIG, weights=params, lora=LORA, base_name="base"):
    """`folder/base`, and `folder/adapter` that names it; returns the merged parameters."""
    own = drawn(adapter_table(param_table(config), lora))
    base = weights(config)
    export_hf(base, config, folder / "base", **QUIET)
    export_peft(own, lora, base, config, folder / "adapter", base_name=base_name, **QUIET)
    return merge(base, own, scale_of(lora))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    return folder, make(folder)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "c")
    return tmp_path / "c"


def change(folder, **values):
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder / "adapter"


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


def test_it_is_the_merged_model_for_every_reader(made):
    folder, merged = made
    adapter = folder / "adapter"
    assert read_config(adapter) == CONFIG
    assert read_heads(adapter) == ()
    model = load_model(adapter)
    close(model.params["model"], merged)
    assert model.about["trained_on"] == "a PEFT adapter (adapter) on base"
    names = {name: param for _, param in leaves(param_table(CONFIG)) for name in param.tensors}
    with open_model(adapter) as opened:
        assert opened.leaves.keys() == names.keys()
        q = opened.leaves["model.layers.1.self_attn.q_proj.weight"]
        np.testing.assert_allclose(
            q.read(), np.asarray(merged["layers"]["1"]["self_attn"]["q_proj"]["weight"]).reshape(16, -1).T, rtol=1e-5
        )
        assert q.dtype == "F32"


@pytest.mark.parametrize(
    ("config", "weights", "lora"),
    [
        (LFM3, params, LoRA(rank=2)),
        (MOE, moe_params, LoRA(rank=2, target_modules=("*/q_proj/weight", "*/in_proj/weight"))),
    ],
)
def test_other_models_and_some_of_the_modules(tmp_path, config, weights, lora):
    merged = make(tmp_path, config, weights, lora)
    close(import_hf(tmp_path / "adapter")[0], merged)


def test_import_says_which_base_and_verifies(made, tmp_path, capsys):
    folder, merged = made
    assert main(["import", str(folder / "adapter"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert f"adapter: a PEFT adapter of rank 3 on 17 projections, added to {folder / 'base'}" in out
    assert float(re.search(r"max log-prob error (\S+) nats", out)[1]) < 1e-4
    close(load_model(tmp_path / "out").params["model"], merged)


def test_the_comparison_sees_a_forgotten_adapter(made):
    report = compare_files(params(), CONFIG, made[0] / "adapter", transformers=False)
    with pytest.raises(CheckpointError, match="do not compute what the model computes"):
        check_errors(report, made[0])


def test_ranks_and_alphas_by_pattern(copy):
    """Keys are matched from the end, as PEFT does; the first that matches counts."""
    file = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.k_proj.lora_{}.weight"
    tensors[name.format("A")], tensors[name.format("B")] = (
        np.ascontiguousarray(tensors[name.format("A")][:2]),
        np.ascontiguousarray(tensors[name.format("B")][:, :2]),
    )
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"rank of model.layers.1.self_attn.k_proj is 3 and its matrices have 2"):
        import_hf(copy / "adapter")
    adapter = change(
        copy,
        rank_pattern={"k_proj": 2},
        alpha_pattern={r"layers\.1\.self_attn\.k_proj": 8, "k_proj": 5},
        use_rslora=False,
    )
    got = import_hf(adapter)[0]["layers"]["1"]["self_attn"]
    delta = 8 / 2 * (tensors[name.format("B")] @ tensors[name.format("A")])
    expected = np.asarray(params()["layers"]["1"]["self_attn"]["k_proj"]["weight"]).reshape(16, -1) + delta.T
    np.testing.assert_allclose(np.asarray(got["k_proj"]["weight"]).reshape(16, -1), expected, rtol=1e-5, atol=1e-6)


def test_settings_of_a_newer_peft_that_are_off_do_not_matter(copy):
    close(
        import_hf(change(copy, use_dora=False, some_new_variant=None, eva_config={"rho": 2.0}, megatron_core="x"))[0],
        import_hf(copy / "adapter")[0],
    )


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"peft_type": "VERA"}, "peft_type = 'VERA'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save = a list of 1"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters = a list of 1"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens = a list of 2"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = a list of 1"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa', which changes the base"),
        ({"a_variant_of_next_year": {"on": True}}, "a_variant_of_next_year = an object of 1"),
    ],
)
def test_variants_are_refused_with_the_command_that_merges_them(copy, values, what):
    adapter = change(copy, **values)
    with pytest.raises(CheckpointError) as caught:
        load_model(adapter)
    message = str(caught.value)
    assert what in message
    assert message.endswith(
        'python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{adapter}').merge_and_unload().save_pretrained('{adapter}-merged')\""
    )


def test_a_base_that_is_not_here(copy):
    adapter = change(copy, base_model_name_or_path="LiquidAI/LFM2-350M", task_type="SEQ_CLS")
    with pytest.raises(CheckpointError, match=r"no folder here. Put the base .*AutoPeftModelForSequenceClassification"):
        read_config(adapter)
    (copy / "base").rename(copy / "LFM2-350M")  # as downloaded beside the adapter
    assert read_config(adapter) == CONFIG
    for name in ("x" * 5000, "a\0b", "."):
        with pytest.raises(CheckpointError, match="no folder here"):
            load_model(change(copy, base_model_name_or_path=name))
    for name in (None, "", 7):
        with pytest.raises(CheckpointError, match=r"base_model_name_or_path is .*; write the folder"):
            load_model(change(copy, base_model_name_or_path=name))


def test_two_bases_of_that_name_are_not_guessed_between(copy, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(copy / "base", elsewhere / "base")
    assert base_of(copy / "adapter") == copy / "base"
    monkeypatch.chdir(elsewhere)
    with pytest.raises(CheckpointError, match=r"there are .*elsewhere/base.*; write the path"):
        base_of(copy / "adapter")
    assert base_of(change(copy, base_model_name_or_path=str(copy / "base"))) == copy / "base"


def test_another_base_and_broken_files(copy):
    file = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    pair = "base_model.model.model.layers.0.conv.in_proj.lora_{}.weight"
    for wrong, message in (
        ({pair.format("A"): np.ones((3, 5), np.float32)}, r"a pair \[48, 3\] x \[3, 5\] does not fit \[48, 16\]"),
        (
            {pair.replace("in_proj", "up").format(s): tensors[pair.format(s)] for s in "AB"},
            "up, which its base has not",
        ),
        ({"base_model.model.model.embed_tokens.weight": np.ones((2, 2), np.float32)}, "which is no low-rank pair"),
        ({pair.replace("0", "7").format("A"): tensors[pair.format("A")]}, "half of model.layers.7.conv.in_proj"),
    ):
        save_file(tensors | wrong, file)
        with pytest.raises(CheckpointError, match=message):
            load_model(copy / "adapter")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_model(copy / "adapter")
    file.rename(copy / "adapter" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no adapter_model.safetensors .*pickles, and never read"):
        load_model(copy / "adapter")
    shutil.copy(copy / "base" / "model.safetensors", copy / "adapter")
    with pytest.raises(CheckpointError, match="holds a whole model and an adapter"):
        load_model(copy / "adapter")


def test_its_own_tokenizer_goes_before_that_of_the_base(copy):
    assert near_tokenizer(copy / "adapter") is None
    one, other = (train_tokenizer([text] * 4, 290) for text in ("to be or not", "something else"))
    one.save(copy / "base")
    assert near_tokenizer(copy / "adapter").hash == one.hash
    other.save(copy / "adapter")
    assert near_tokenizer(copy / "adapter").hash == other.hash


def test_damaged_settings_are_no_tracebacks(copy):
    settings = json.loads((copy / "adapter" / "adapter_config.json").read_text())
    for key in settings:
        for odd in (None, True, -1, 0, 1e400, "x", [], [None], {"a": 1}, {"(": 3}, 10**30):
            adapter = change(copy, **{**settings, key: odd})
            with contextlib.suppress(CheckpointError), open_folder(adapter):
                pass
