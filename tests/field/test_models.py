"""Checkpoints as users bring them: released configurations, adapters, and a generation_config.json of their own."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from cli.conftest import make_model
from models.adapters import drawn
from models.tiny import params
from models.tiny_moe import params as moe_params
from safetensors.numpy import load_file, save_file

from jaxpo.cli.main import main
from jaxpo.config import SFT, Data, LoRA, Optimizer, Run, Tokenizer
from jaxpo.convert import verify
from jaxpo.convert.hf import export_hf, import_hf, tensors_of
from jaxpo.convert.model_io import check_files, load_model, read_config
from jaxpo.convert.open_model import open_model
from jaxpo.convert.peft import export_peft
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.reference import reference_logits
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table
from jaxpo.stages.run import execute
from jaxpo.stages.run_generation_config import keep_generation_of_start
from jaxpo.stages.run_inputs import make_inputs

DENSE = LFM2Config(
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    layer_types=("conv", "conv", "full_attention", "conv"),
    rope_theta=1e4,
    initializer_range=0.04,
    max_position_embeddings=4096,
)
MOE = dataclasses.replace(
    DENSE,
    vocab_size=256,
    hidden_size=64,
    intermediate_size=96,
    head_dim=16,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    num_dense_layers=1,
    rope_theta=1e6,
    initializer_range=0.02,
    max_position_embeddings=256,
)
CASES = ("lfm2-july-2025-style", *(f"x_{what}" for what in (
    "no_dtype", "no_layer_types", "no_twe", "rope_scaling_null", "torch_dtype")))  # fmt: skip


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("field") / "export"
    export_hf(params(DENSE), DENSE, folder, verify=False)
    return folder


@pytest.fixture
def compiled_once(monkeypatch):
    """What the model computes is one program for all files of it."""
    monkeypatch.setattr(verify, "log_probs", lambda params, config, tokens, dtype: _ours(config, tuple(tokens)))


@functools.cache
def _ours(config, tokens, log_probs=verify.log_probs):
    """Of a mixture by the float64 forward, which reads tensors that are not the file's: its program takes seconds."""
    if not config.num_experts:
        return log_probs(params(config), config, np.asarray(tokens), None)
    tensors = {source.name: source.load for source in tensors_of(moe_params(config), param_table(config))}
    return verify.log_softmax(reference_logits(lambda name: tensors[name](), config, np.asarray(tokens)))


def with_config(folder, target, config):
    """A copy of the folder with another config.json."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(config if file.name == "config.json" else file.read_bytes())
    return target


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("compiled_once")
def test_released_configurations_are_read_and_verified(field, dense, tmp_path, case):
    released = (field / "import-released-config" / f"config-{case}.json").read_bytes()
    folder = with_config(dense, tmp_path / "checkpoint", released)
    assert read_config(folder) == DENSE
    report = verify.compare_files(params(DENSE), DENSE, folder, transformers=False)
    assert report["max_logprob_error"] < 1e-4
    verify.check_errors(report, folder)


@pytest.mark.usefixtures("compiled_once")
def test_a_mixture_without_the_keys_of_transformers_5(field, tmp_path):
    export_hf(moe_params(MOE), MOE, tmp_path / "m", verify=False)
    released = (field / "import-released-config" / "moe-config.json").read_bytes()
    folder = with_config(tmp_path / "m", tmp_path / "checkpoint", released)
    weights, config = import_hf(folder)
    assert config == MOE
    jax.tree.map(np.testing.assert_array_equal, weights, moe_params(MOE))
    assert verify.compare_files(weights, config, folder, transformers=False)["max_logprob_error"] < 1e-4


@pytest.mark.usefixtures("compiled_once")
def test_jaxpo_import(field, dense, tmp_path, capsys):
    released = (field / "import-released-config" / "config-lfm2-july-2025-style.json").read_bytes()
    folder, out = with_config(dense, tmp_path / "checkpoint", released), tmp_path / "out"
    assert main(["import", str(folder), str(out)]) == 0
    assert "verified: max log-prob error" in capsys.readouterr().out
    assert load_model(out).config == DENSE


@pytest.mark.parametrize("kind", ["float16", "fused experts", "without a head"])
@pytest.mark.usefixtures("compiled_once")
def test_tensors_as_other_tools_save_them_are_verified(tmp_path, kind):
    """No config.json of ours says in which type, under which prefix or in how many pieces the tensors lie."""
    config, weights = (MOE, moe_params(MOE)) if kind == "fused experts" else (DENSE, params(DENSE))
    folder = tmp_path / "m"
    export_hf(weights, config, folder, verify=False)
    tensors = load_file(folder / "model.safetensors")
    if kind == "float16":
        tensors = {name: x.astype(np.float16) for name, x in tensors.items()}
    elif kind == "without a head":
        tensors = {name.removeprefix("model."): x for name, x in tensors.items()}
    for i in range(1, 4) if config.num_experts else ():
        prefix = f"model.layers.{i}.feed_forward.experts"
        w1, w2, w3 = (np.stack([tensors.pop(f"{prefix}.{e}.{w}.weight") for e in range(4)]) for w in ("w1", "w2", "w3"))
        tensors |= {f"{prefix}.gate_up_proj": np.concatenate([w1, w3], axis=1), f"{prefix}.down_proj": w2}
    save_file(tensors, folder / "model.safetensors")
    loaded, _ = import_hf(folder)
    rounded = kind == "float16"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * rounded, rtol=0), loaded, weights)
    report = verify.compare_files(loaded, config, folder, transformers=False)
    assert report["max_logprob_error"] < (0.5 if rounded else 1e-4)


def test_an_adapter_that_peft_wrote(field, dense, tmp_path):
    """Every key of PEFT's own file; the base is the folder beside it, by the name that it has there."""
    rng, tensors = np.random.default_rng(0), {}
    adapter = dense.parent / "adapter"
    adapter.mkdir(exist_ok=True)
    settings = (field / "peft-adapter" / "adapter_config.json").read_bytes()
    (adapter / "adapter_config.json").write_bytes(settings)
    base = load_file(dense / "model.safetensors")
    targets = json.loads(settings)["target_modules"]
    modules = [name.removesuffix(".weight") for name in base if name.split(".")[-2] in targets]
    for module in modules:
        n_out, n_in = base[f"{module}.weight"].shape
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((4, n_in)).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((n_out, 4)).astype(np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert len(modules) == 3 * 2 + 4 + 4 * 3
    assert read_config(adapter) == DENSE
    with open_model(adapter) as opened:
        for module in modules:
            a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
            expected = base[f"{module}.weight"] + 8 / 4 * (b @ a)
            np.testing.assert_allclose(opened.leaves[f"{module}.weight"].read(), expected, rtol=1e-4, atol=1e-4)
    loaded = load_model(adapter).params["model"]
    assert jax.tree.structure(loaded) == jax.tree.structure(params(DENSE))


def test_files_that_are_no_model_are_told_before_anything_is_tokenised(dense, tmp_path):
    folder = with_config(dense, tmp_path / "m", (dense / "config.json").read_bytes())
    check_files(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.conv.conv.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: model.layers.0.conv.conv.weight"):
        make_inputs(Run(model_from=str(folder)), tmp_path / "run", print)


def test_the_generation_config_of_a_checkpoint_outlives_training(field, dense, tmp_path):
    """Copied into the run when it begins, which is where the export of its last model finds it."""
    own = json.loads((field / "chat-template-ignored" / "generation_config.json").read_text())
    start, home = tmp_path / "start", tmp_path / "run"
    with_config(dense, start, (dense / "config.json").read_bytes())
    (start / "generation_config.json").write_text(json.dumps(own))
    home.mkdir()
    one, other = (train_tokenizer([text] * 4, 290) for text in ("to be or not", "something else"))
    one.save(start)
    said = []
    keep_generation_of_start(Run(model_from=str(start)), home, other, said.append)
    assert said == [f"generation_config.json of {start} is left out: its ids are those of another tokenizer"]
    assert not list(home.iterdir())
    for _ in range(2):  # begun, and begun again
        keep_generation_of_start(Run(model_from=str(start)), home, one, said.append)
        assert json.loads((home / "generation_config.json").read_text()) == own
    assert len(said) == 1


@pytest.mark.slow  # a whole run: seconds of compiling
def test_a_run_from_an_adapter_exports_the_settings_of_its_base(field, tmp_path):
    own = json.loads((field / "chat-template-ignored" / "generation_config.json").read_text())
    start = load_model(make_model(tmp_path / "start", 0))
    weights, lora = start.params["model"], LoRA(rank=2)
    options = {"tokenizer": start.tokenizer, "generation": own, "verify": False}
    export_hf(weights, start.config, tmp_path / "base", **options)
    adapter = drawn(adapter_table(param_table(start.config), lora))
    export_peft(adapter, lora, weights, start.config, tmp_path / "adapter", base_name="base", verify=False)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "path", "completion": "file join read"}\n' * 6)
    data = Data(train=(str(tmp_path / "rows.jsonl"),), max_length=64, row_length=64, block_rows=1)
    run = Run(
        name="run",
        output_dir=str(tmp_path),
        model_from=str(tmp_path / "adapter"),
        tokenizer=Tokenizer(path=str(tmp_path / "base")),
        prompts=(),
        stages=(SFT(data=data, max_steps=1, rows_per_step=8, optimizer=Optimizer(learning_rate=1e-9)),),
    )
    assert execute(run) == 0
    exported = tmp_path / "run" / "export"
    assert json.loads((exported / "generation_config.json").read_text()) == own
    merged = load_model(tmp_path / "adapter").params["model"]
    trained = load_model(exported).params["model"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained, merged)
