"""Folders of diffusers: written and read bit for bit, schedules, what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.filled import filled
from diffusion.tiny import DIT, TOWER, UNET
from safetensors.numpy import load_file, save_file

from jaxpo.cli.main import main
from jaxpo.config import LoRA
from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.text_adapter import TextAdapter
from jaxpo.convert.diffusers.lora import FILE, export_lora, read_lora
from jaxpo.convert.diffusers.read import notes
from jaxpo.convert.diffusers.schedules import schedule_from_json, schedule_to_json
from jaxpo.convert.diffusers.write import export_diffusers
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.model_io import load_model, read_config, save_model
from jaxpo.convert.open_model import open_model
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import param_table, preset
from jaxpo.models.lowrank import adapter_table, merge, scale_of
from jaxpo.models.spec import init_params, leaves
from jaxpo.stages.adapter import fingerprint, save_adapter

CONFIGS = {
    "dit": DIT,
    "dit with users and tower": dataclasses.replace(
        DIT, num_layers=11, user_channels=4, user_scale=0.5, caption=TOWER, schedule=NoiseSchedule("cosine")
    ),
    "dit with a text adapter": dataclasses.replace(DIT, text_adapter=TextAdapter(5, 8)),
    "unet": UNET,
    "unet with users and tower": dataclasses.replace(
        UNET, user_channels=12, caption=TOWER, use_linear_projection=True, cross_attention=(False, True)
    ),
}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> a pipeline's folder of a filled model."""
    made = {}
    for name, config in CONFIGS.items():
        made[name] = tmp_path_factory.mktemp("pipelines") / name.replace(" ", "_")
        report = export_diffusers(filled(param_table(config)), config, made[name], compare_diffusers=False)
        assert report["tensors"] == len(list(leaves(param_table(config))))
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_bit_for_bit(folders, name):
    params, config = import_hf(folders[name])
    assert config == CONFIGS[name] == read_config(folders[name])
    equal(params, filled(param_table(config)))
    loaded = load_model(folders[name])
    assert loaded.config == config
    assert "a pipeline of diffusers" in loaded.about["trained_on"]
    with open_model(folders[name]) as opened:
        assert len(opened.leaves) == len(list(leaves(param_table(config))))


def test_every_tensor_lies_where_other_programs_look(folders):
    """Attention to users as IP-Adapter counts it: odd numbers, the way down, the way up, then the middle."""
    folder = folders["unet with users and tower"]
    own = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert own["conv_in.weight"].shape == (4, 4, 3, 3)
    assert not any("caption" in name or "_ip" in name for name in own)
    users = load_file(folder / "ip_adapter.safetensors")
    assert sorted(users) == sorted(f"ip_adapter.{i}.to_{x}_ip.weight" for i in (1, 3, 5, 7) for x in "kv")
    params = filled(param_table(CONFIGS["unet with users and tower"]))
    middle = params["mid_block"]["attentions"]["0"]["transformer_blocks"]["0"]["attn2"]["to_k_user"]["weight"]
    np.testing.assert_array_equal(users["ip_adapter.7.to_k_ip.weight"], np.asarray(middle).T)
    many = load_file(folders["dit with users and tower"] / "ip_adapter.safetensors")
    tenth = filled(param_table(CONFIGS["dit with users and tower"]))["transformer_blocks"]["10"]["attn2"]["to_v_user"]
    np.testing.assert_array_equal(many["ip_adapter.21.to_v_ip.weight"], np.asarray(tenth["weight"]).T)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert "embedding.weight" in " ".join(load_file(folder / "caption_tower.safetensors"))


def test_bfloat16_and_a_stage_are_exported_too(tmp_path):
    params = filled(param_table(DIT))
    export_diffusers(params, DIT, tmp_path / "half", dtype="bfloat16", compare_diffusers=False)
    read, _ = import_hf(tmp_path / "half")
    equal(read, jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params))
    save_model(tmp_path / "stage", {"model": params}, DIT, {"stage": "test"})
    equal(load_model(tmp_path / "stage").params["model"], params)
    with pytest.raises(ConfigError, match="'dit' has no form as a Hugging Face checkpoint; --format diffusers"):
        export_hf(params, DIT, tmp_path / "other")
    with pytest.raises(ConfigError, match="'lfm2' has no form in diffusers"):
        export_diffusers({}, preset("nano"), tmp_path / "other", verify=False)


SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule("linear", steps=500, beta_end=0.05),
    NoiseSchedule("cosine", parameterisation="x0"),
    NoiseSchedule("scaled_linear", clean="first", zero_snr=True, parameterisation="velocity"),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedules_are_read_as_they_were_written(schedule):
    assert schedule_from_json(schedule_to_json(schedule), "a file") == schedule


def test_the_released_scheduler():
    """Stable Diffusion 1.5's file, and what it says of a sampler is told."""
    released = {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None, "clip_sample": False,
    }  # fmt: skip
    assert schedule_from_json(released, "a file") == NoiseSchedule(clean="first")
    assert schedule_to_json(NoiseSchedule(clean="first"))["steps_offset"] == 1


def test_what_a_folder_holds_besides_is_told(folders, tmp_path):
    folder = copied(folders["unet"], tmp_path)
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])
    assert notes(folder) == [
        "not read: vae",
        "of the sampler, and not kept with the model: timestep_spacing 'leading', steps_offset 1",
    ]


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(("name", "file", "changes", "message"), [
    ("unet", "unet/config.json", {"attention_head_dim": [3, 2]}, "width 4 is not divisible by 3 heads.*number of"),
    ("unet", "unet/config.json", {"attention_head_dim": [2, 2, 2]}, "attention_heads has 3 entries"),
    ("unet", "unet/config.json", {"num_attention_heads": 2}, "heads in attention_head_dim"),
    ("unet", "unet/config.json", {"block_out_channels": [8, 8]}, "tensors do not fit.*wrong shape"),
    ("unet", "unet/config.json", {"layers_per_block": 2}, "missing: "),
    ("unet", "unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time', and"),
    ("unet", "unet/config.json", {"transformer_layers_per_block": [1, 2]}, "layers_per_block is a list of 2"),
    ("unet", "unet/config.json", {"up_block_types": ["UpBlock2D"]}, "not down_block_types in reverse"),
    ("unet", "unet/config.json", {"out_channels": 8}, "out_channels is 8, but what it predicts"),
    ("unet", "unet/config.json", {"_class_name": "UNetSpatioTemporalConditionModel"}, "this importer reads UNet2D"),
    ("unet", "model_index.json", {"unet": None}, "names none of transformer .* unet .UNet2DConditionModel"),
    ("dit", "transformer/config.json", {"use_additional_conditions": True}, "PixArt-alpha 1024"),
    ("dit", "transformer/config.json", {"norm_type": "layer_norm"}, "norm_type is 'layer_norm'"),
    ("dit", "transformer/config.json", {"caption_channels": None}, "caption_channels is missing"),
    ("dit", "scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "betas of a table of its own"),
    ("dit", "scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "nothing is left of the image"),
    ("dit", "scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "rectified flow"),
    ("dit", "scheduler/scheduler_config.json", {"beta_schedule": "sigmoid", "num_train_timesteps": "x"},
     "one of scaled_linear.*whole number"),
])  # fmt: skip
def test_what_is_refused_names_the_file(folders, tmp_path, name, file, changes, message):
    folder = copied(folders[name], tmp_path)
    edit(folder / file, **changes)
    with pytest.raises(CheckpointError, match=f"(?s)copy.*{message}"):
        import_hf(folder)


def test_a_flow_and_pickles_are_refused(folders, tmp_path):
    flow = dataclasses.replace(DIT, schedule=NoiseSchedule("flow", parameterisation="flow"))
    with pytest.raises(ConfigError, match="rectified flow"):
        export_diffusers(filled(param_table(DIT)), flow, tmp_path / "flow")
    folder = copied(folders["unet"], tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="pickles"):
        import_hf(folder)


LORA = LoRA(rank=2, alpha=2.0, init="gaussian", target_modules=("*attn1/to_?/weight", "*attn2/to_out/0/weight"))


def adapter(config, lora=LORA):
    drawn = init_params(adapter_table(param_table(config), lora), jax.random.key(0))
    return jax.tree.map(lambda w: w + 0.01 * jnp.arange(w.size, dtype=jnp.float32).reshape(w.shape), drawn)


@pytest.mark.parametrize("config", [DIT, UNET], ids=["dit", "unet"])
def test_adapters_are_read_in_both_forms_of_keys(config, tmp_path):
    given = adapter(config)
    file = export_lora(given, LORA, config, tmp_path / "lora")
    component = "transformer" if config is DIT else "unet"
    stored = load_file(file)
    assert all(
        name.startswith(f"{component}.") and name.endswith((".lora.down.weight", ".lora.up.weight")) for name in stored
    )
    read, lora = read_lora(tmp_path / "lora", config)
    equal(read, given)
    assert (lora.rank, lora.alpha) == (2, 2.0)
    peft = {name.replace("lora.down", "lora_A").replace("lora.up", "lora_B"): x for name, x in stored.items()}
    said = {"lora_adapter_metadata": json.dumps({f"{component}.r": 2, f"{component}.lora_alpha": 3.0})}
    save_file(peft, tmp_path / "peft.safetensors", metadata=said)
    read, lora = read_lora(tmp_path / "peft.safetensors", config)
    equal(read, given)
    assert lora.alpha == 3.0


def test_metadata_say_more_than_alpha(tmp_path):
    stored = load_file(export_lora(adapter(DIT), LORA, DIT, tmp_path / "lora"))

    def read(said):
        save_file(stored, tmp_path / "said.safetensors", metadata={"lora_adapter_metadata": json.dumps(said)})
        return read_lora(tmp_path / "said.safetensors", DIT)[1]

    own = {"transformer.r": 2, "transformer.lora_alpha": 3.0, "transformer.rank_pattern": {"to_q": 2}}
    other = {"text_encoder.lora_alpha": 16.0, "text_encoder.use_dora": True, "transformer.lora_bias": False}
    plain = read(own)
    assert (plain.alpha, plain.use_rslora) == (3.0, False)
    assert read(own | other | {"transformer.use_rslora": True}) == dataclasses.replace(plain, use_rslora=True)
    for key, value in (("use_dora", True), ("alpha_pattern", {"to_q": 4}), ("init_lora_weights", "pissa")):
        with pytest.raises(CheckpointError, match=f"more than pairs of matrices of one scale .*{key}"):
            read(own | {f"transformer.{key}": value})


def test_another_alpha_is_multiplied_in(tmp_path):
    wide = dataclasses.replace(LORA, alpha=8.0)
    given = adapter(DIT, wide)
    export_lora(given, wide, DIT, tmp_path / "lora")
    read, lora = read_lora(tmp_path / "lora" / FILE, DIT)
    ours, theirs = (t["transformer_blocks"]["0"]["attn1"]["to_q"]["weight"] for t in (given, read))
    np.testing.assert_allclose(theirs["a"] @ theirs["b"], 4.0 * ours["a"] @ ours["b"], rtol=1e-6)
    assert lora.alpha == lora.rank


def test_adapters_that_do_not_fit_are_refused(tmp_path):
    everywhere = LoRA(rank=2, target_modules=("all-linear",))
    config = CONFIGS["dit with users and tower"]
    with pytest.raises(ConfigError, match="which diffusers has not"):
        export_lora(adapter(config, everywhere), everywhere, config, tmp_path / "all")
    file = export_lora(adapter(DIT), LORA, DIT, tmp_path / "lora")
    stored, name = load_file(file), "transformer.transformer_blocks.0.attn1.to_q"
    changes = [
        ({}, {name + ".lora.up.weight"}, "has one of its two matrices"),
        ({name + ".lora.down.weight": np.zeros((3, 8), np.float32)}, set(), r"different values of rank, \[2, 3\]"),
        ({"text_encoder.q_proj.lora.down.weight": np.zeros((2, 8), np.float32)}, set(), "also to a text encoder"),
        ({"lora_unet_x.lora_mid.weight": np.zeros((2, 8), np.float32)}, set(), "is no key of an adapter"),
        ({name + ".lora.down.weight": np.zeros((2, 9), np.float32)}, set(), r"\(2, 9\), expected \(2, 8\)"),
        ({name + ".alpha": np.ones(()), name + "x.alpha": np.zeros(())}, set(), "different values of alpha"),
    ]
    for more, without, message in changes:
        save_file({k: v for k, v in (stored | more).items() if k not in without}, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match=message):
            read_lora(tmp_path / "bad.safetensors", DIT)


def test_the_commands(folders, tmp_path, capsys):
    """In, out again, and the adapter of a stage; a folder is read wherever a model is."""
    assert main(["import", str(folders["dit"]), str(tmp_path / "base")]) == 0
    said = capsys.readouterr().out
    assert "of the sampler, and not kept with the model" in said
    assert "read back bit for bit" in said
    assert main(["export", str(tmp_path / "base"), str(tmp_path / "out"), "--format", "diffusers"]) == 0
    assert "diffusers" in capsys.readouterr().out
    for file in (
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ):
        assert (tmp_path / "out" / file).read_bytes() == (folders["dit"] / file).read_bytes()
    stage, params, own = tmp_path / "run" / "stages" / "dpo", filled(param_table(DIT)), adapter(DIT)
    save_model(stage, {"model": merge(params, own, scale_of(LORA))}, DIT, {"stage": "dpo"})
    save_adapter(stage, own, LORA, folders["dit"], fingerprint(params))
    assert main(["export", str(stage), str(tmp_path / "lora"), "--format", "diffusers", "--adapter"]) == 0
    equal(read_lora(tmp_path / "lora", DIT)[0], own)
    assert main(["export", str(stage), str(tmp_path / "hf")]) != 0
    assert "--format diffusers" in capsys.readouterr().err
