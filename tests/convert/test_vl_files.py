"""LFM2-VL in Hugging Face files: exactness, every form of the names, what tensors and processor files know better."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from contracts.families import EXAMPLES
from safetensors.numpy import load_file, save_file

from jaxpo.cli.import_ import main as import_command
from jaxpo.config import LoRA
from jaxpo.convert.folder import corrected
from jaxpo.convert.formats import FORMATS, Options
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.model_io import load_model
from jaxpo.convert.peft import export_peft
from jaxpo.convert.reward_hf import export_reward
from jaxpo.convert.runtimes.folder import EXECUTORCH, MLX, ONNX
from jaxpo.data.media.settings import PREPROCESSOR, PROCESSOR, ImageSettings, read_settings
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import param_table
from jaxpo.models.lowrank import adapter_table
from jaxpo.models.spec import init_params

CONFIG = EXAMPLES["jaxpo.models.lfm2_vl.config:LFM2VLConfig"]
QUIET = {"compare_transformers": False}
HEAD = "lm_head.weight"


def weights(config):
    drawn = init_params(param_table(config), jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


@pytest.fixture(scope="module")
def params():
    return weights(CONFIG)


@pytest.fixture(scope="module")
def exported(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vl") / "model"
    return folder, export_hf(params, CONFIG, folder, **QUIET)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b"], 270)


@pytest.fixture
def copy(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder, load_file(folder / "model.safetensors")


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_round_trip_is_exact_and_the_tower_is_verified(exported, params):
    folder, report = exported
    again, config = import_hf(folder)
    assert config == CONFIG
    assert_same(again, params)
    assert report["max_logprob_error"] < 1e-4
    assert read_settings(folder) == ImageSettings(encoder_patch_size=2)
    document = json.loads((folder / "config.json").read_text())
    assert document["architectures"] == ["Lfm2VlForConditionalGeneration"]
    assert "AutoModelForImageTextToText" in (folder / "README.md").read_text()


def test_a_damaged_tower_shows_in_the_comparison(copy, params):
    from jaxpo.convert.verify import verify

    folder, tensors = copy
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    save_file(tensors | {name: tensors[name] + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not compute what the model computes"):
        verify(params, CONFIG, folder, transformers=False)


@pytest.mark.parametrize(
    "renamed",
    [
        lambda n: n.replace("vision_tower.", "vision_tower.vision_model."),
        lambda n: n.removeprefix("model."),
        lambda n: n.removeprefix("model.").replace("language_model.", "language_model.model."),
        lambda n: (
            n.removeprefix("model.")
            .replace("language_model.", "language_model.model.")
            .replace("vision_tower.", "vision_tower.vision_model.")
        ),
    ],
    ids=["transformers 4", "saved without a head", "language_model.model", "MLX"],
)
def test_every_form_of_the_names_is_the_same_model(copy, params, renamed):
    folder, tensors = copy
    further = {
        "model.vision_tower.head.probe": np.zeros((1, 1, 8), np.float32),
        "model.language_model.lm_head.weight": tensors["model.language_model.embed_tokens.weight"],
    }
    save_file({renamed(name): x for name, x in (tensors | further).items()}, folder / "model.safetensors")
    again, config = import_hf(folder)
    assert config == CONFIG
    assert_same(again, params)


def test_one_tensor_under_two_names(copy):
    folder, tensors = copy
    name = "vision_tower.post_layernorm.bias"
    save_file(tensors | {name: tensors[f"model.{name}"]}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds model.vision_tower.post_layernorm.bias under two names"):
        import_hf(folder)


def test_a_norm_is_there_when_its_tensors_are(copy, tmp_path):
    folder, tensors = copy
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"projector_use_layernorm": False}))
    assert import_hf(folder)[1] == CONFIG
    assert corrected(folder) == [
        f"{folder / 'config.json'}: projector_use_layernorm is False, and the files beside it say True, which is taken"
    ]
    (folder / "config.json").write_text(json.dumps(document))
    save_file({n: x for n, x in tensors.items() if "layer_norm." not in n}, folder / "model.safetensors")
    assert import_hf(folder)[1] == dataclasses.replace(CONFIG, projector_use_layernorm=False)
    bare = dataclasses.replace(CONFIG, projector_use_layernorm=False, projector_bias=False)
    params = weights(bare)
    assert export_hf(params, bare, tmp_path / "bare", **QUIET)["max_logprob_error"] < 1e-4
    again, config = import_hf(tmp_path / "bare")
    assert config == bare
    assert_same(again, params)
    assert corrected(tmp_path / "bare") == []


def test_how_images_are_made_goes_with_the_tokenizer_through_everything(copy, params, tokenizer, tmp_path, capsys):
    """Both processor files as they were, and what they say of bytes is the model's."""
    folder, _ = copy
    (folder / PREPROCESSOR).write_text(json.dumps({"encoder_patch_size": 2, "max_tiles": 4, "image_mean": [0.1] * 3}))
    inner = {"image_processor": {"max_tiles": 6, "use_thumbnail": False}, "processor_class": "Lfm2VlProcessor"}
    (folder / PROCESSOR).write_text(json.dumps(inner))
    tokenizer.save(folder)
    wanted = ImageSettings(encoder_patch_size=2, max_tiles=6, use_thumbnail=False, image_mean=(0.1,) * 3)
    imported, out = tmp_path / "imported", tmp_path / "out"
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"projector_use_layernorm": False}))
    assert import_command([str(folder), str(imported)]) == 0
    said = capsys.readouterr().out
    assert "projector_use_layernorm is False, and the files beside it say True" in said
    model = load_model(imported)
    assert model.config == dataclasses.replace(CONFIG, image_mean=(0.1,) * 3)
    assert model.tokenizer.image_settings == wanted
    export_hf(model.params["model"], model.config, out, tokenizer=model.tokenizer, **QUIET)
    assert read_settings(out) == wanted
    assert [(out / n).read_bytes() for n in (PREPROCESSOR, PROCESSOR)] == [
        (folder / n).read_bytes() for n in (PREPROCESSOR, PROCESSOR)
    ]
    assert Tokenizer.load(out).image_settings == wanted


def test_a_processor_of_another_model_is_refused(copy):
    folder, _ = copy
    (folder / PREPROCESSOR).write_text(json.dumps({"encoder_patch_size": 16}))
    with pytest.raises(CheckpointError, match="patches of 16 pixels, and the tower reads 2"):
        import_hf(folder)
    (folder / PREPROCESSOR).write_text("{")
    with pytest.raises(CheckpointError, match=f"{PREPROCESSOR}: cannot be read"):
        import_hf(folder)


def test_what_other_libraries_cannot_run_is_refused(exported, params, tmp_path):
    rewarding = {"model": params, "value": {"weight": np.zeros((CONFIG.hidden_size, 1), np.float32)}}
    with pytest.raises(CheckpointError, match="no sequence classification on 'lfm2_vl'"):
        export_reward(rewarding, CONFIG, tmp_path / "reward")
    with pytest.raises(ConfigError, match="lfm2_vl"):
        FORMATS["gguf"].write(exported[0], tmp_path / "gguf", Options(("f32",)))
    for runtime in (MLX, ONNX, EXECUTORCH):
        assert "lfm2_vl" in runtime.inexpressible(CONFIG)[0]


def test_an_adapter_of_the_tower_is_compared_on_an_image(params, tmp_path):
    lora = LoRA(rank=2, target_modules=("vision/layers/*/fc1/weight", "layers/0/*_proj/weight"))
    adapter = init_params(adapter_table(param_table(CONFIG), lora), jax.random.key(1))
    adapter = jax.tree.map(lambda x: x + 0.1, adapter)
    report = export_peft(adapter, lora, params, CONFIG, tmp_path / "adapter")
    assert report["max_logprob_error"] < 1e-4
    names = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert "fc1" in names
