"""Folders, adapters and attention to users as diffusers reads and writes them."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
diffusers = pytest.importorskip("diffusers", reason="parity tests need diffusers (scripts/test --parity)")
peft = pytest.importorskip("peft", reason="parity tests need peft (scripts/test --parity)")

from diffusion.filled import filled  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from jaxpo.config import LoRA  # noqa: E402
from jaxpo.config.noise import NoiseSchedule  # noqa: E402
from jaxpo.convert.diffusers.lora import export_lora, read_lora  # noqa: E402
from jaxpo.convert.diffusers.write import export_diffusers  # noqa: E402
from jaxpo.convert.hf import import_hf  # noqa: E402
from jaxpo.models.dit.config import DiTConfig  # noqa: E402
from jaxpo.models.family import denoiser, family, param_table  # noqa: E402
from jaxpo.models.lowrank import adapter_table, merge, scale_of  # noqa: E402
from jaxpo.models.spec import init_params, leaves  # noqa: E402
from jaxpo.models.unet.config import UNetConfig  # noqa: E402

DIT = DiTConfig(sample_size=4, num_layers=2, num_attention_heads=2, attention_head_dim=4, caption_channels=12)
UNET = UNetConfig(
    sample_size=4,
    block_out_channels=(8, 8),
    layers_per_block=1,
    cross_attention=(True, False),
    cross_attention_dim=12,
    attention_heads=(2, 4),
    norm_num_groups=2,
    schedule=NoiseSchedule(clean="first", parameterisation="velocity"),
)
CONFIGS = {"dit": DIT, "unet": UNET}
NOTHING = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
LORA = LoRA(rank=2, alpha=2.0, init="gaussian", target_modules=("*/to_?/weight", "*/to_out/0/weight"))


def theirs(folder, config):
    form = family(config).diffusers
    found, info = getattr(diffusers, form.classes[0]).from_pretrained(
        folder, subfolder=form.component, output_loading_info=True
    )
    assert not any(info.values()), info
    return found.eval()


def drawn(config):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(1, 4, 4, 4)).astype(np.float32),
        np.asarray([321]),
        rng.normal(size=(1, 3, 12)).astype(np.float32),
    )


def run_theirs(model, config):
    x, t, context = map(torch.from_numpy, drawn(config))
    with torch.no_grad():
        out = model(x, timestep=t, encoder_hidden_states=context, **(NOTHING if config is DIT else {})).sample
    return out[:, :4].numpy()


def run_ours(params, config, **more):
    x, t, context = drawn(config)
    run = jax.jit(
        lambda p: denoiser(config)(p, jnp.asarray(x.transpose(0, 2, 3, 1)), t, context, config=config, **more)
    )
    return np.asarray(run(params)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_loads_what_is_exported(name, tmp_path):
    config = CONFIGS[name]
    params = filled(param_table(config))
    report = export_diffusers(params, config, tmp_path / "out", compare_diffusers=True)
    assert report["diffusers"]["max_error"] < 2e-5
    model = theirs(tmp_path / "out", config)
    stored = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    for (path, param), value in zip(leaves(param_table(config)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(param.layout.to_disk(np.asarray(value)), stored[param.hf], err_msg=path)
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", **absent)
    assert type(pipeline).__name__ == family(config).diffusers.pipeline
    scheduler = pipeline.scheduler
    assert scheduler.config.prediction_type == ("v_prediction" if config is UNET else "epsilon")
    assert scheduler.config.set_alpha_to_one == (config is not UNET)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_diffusers_saves_is_imported(name, tmp_path):
    """Its own random weights and its own config.json, with every default written out."""
    config, form = CONFIGS[name], family(CONFIGS[name]).diffusers
    torch.manual_seed(0)
    model = getattr(diffusers, form.classes[0]).from_config(form.to_json(config)).eval()
    model.save_pretrained(tmp_path / form.component)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, set_alpha_to_one=config is not UNET,
        prediction_type="v_prediction" if config is UNET else "epsilon",
    )  # fmt: skip
    scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({form.component: ["diffusers", form.classes[0]]}))
    params, read = import_hf(tmp_path)
    assert read == config
    stored = load_file(tmp_path / form.component / "diffusion_pytorch_model.safetensors")
    assert len(stored) == len(jax.tree.leaves(params))
    np.testing.assert_allclose(run_ours(params, read), run_theirs(model, config), atol=1e-5)


def load_adapter(model, state, component):
    """By diffusers; by PEFT, whose form it is, where a class of diffusers has no loader of adapters (PixArt's)."""
    if hasattr(model, "load_lora_adapter"):
        model.load_lora_adapter(state, prefix=component)
        return
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets), model)
    names = {name: name.removeprefix(f"{component}.").replace("lora.down", "lora_A") for name in state}
    renamed = {names[name].replace("lora.up", "lora_B"): tensor for name, tensor in state.items()}
    assert not peft.set_peft_model_state_dict(model, renamed).unexpected_keys


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_loads_adapters_and_its_own_are_read(name, tmp_path):
    config, form = CONFIGS[name], family(CONFIGS[name]).diffusers
    params = filled(param_table(config))
    export_diffusers(params, config, tmp_path / "base", verify=False)
    table = adapter_table(param_table(config), LORA)
    adapter = jax.tree.map(lambda w: w + 0.3, init_params(table, jax.random.key(0)))
    file = export_lora(adapter, LORA, config, tmp_path / "lora")
    model = theirs(tmp_path / "base", config)
    before = run_theirs(model, config)
    load_adapter(model, load_file(file), form.component)
    merged = run_ours(merge(params, adapter, scale_of(LORA)), config)
    np.testing.assert_allclose(run_theirs(model, config), merged, atol=2e-5)
    assert np.abs(before - merged).max() > 1e-2
    if config is DIT:
        return
    model.save_lora_adapter(tmp_path / "saved", adapter_name="default_0")
    read, lora = read_lora(tmp_path / "saved", config)
    assert (lora.rank, lora.alpha) == (2, 2.0)
    jax.tree.map(np.testing.assert_array_equal, read, adapter)


def test_attention_to_users_is_ip_adapter(tmp_path):
    """The tensors that are written, loaded into diffusers' processors by their numbers."""
    config = dataclasses.replace(UNET, cross_attention=(True, True), user_channels=12, user_scale=0.5)
    params = filled(param_table(config))
    export_diffusers(params, config, tmp_path / "out", verify=False)
    model = theirs(tmp_path / "out", config)
    stored = {
        name.removeprefix("ip_adapter."): x
        for name, x in load_file(tmp_path / "out" / "ip_adapter.safetensors").items()
    }
    processors = model._convert_ip_adapter_attn_to_diffusers(
        [{"ip_adapter": stored, "image_proj": {"latents": torch.zeros(1, 2, 12)}}], low_cpu_mem_usage=False
    )
    model.set_attn_processor(processors)
    for processor in model.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.5]
    user = 9 * np.random.default_rng(2).normal(size=(1, 2, 12)).astype(np.float32)
    model.encoder_hid_proj = torch.nn.Identity()
    model.config.encoder_hid_dim_type = "ip_image_proj"
    x, t, context = map(torch.from_numpy, drawn(config))
    with torch.no_grad():
        given = {"image_embeds": [torch.from_numpy(user)]}
        expected = model(x, t, context, added_cond_kwargs=given).sample.numpy()
    np.testing.assert_allclose(run_ours(params, config, user=jnp.asarray(user)), expected, atol=2e-5)
    assert np.abs(run_ours(params, config) - expected).max() > 1e-3
