"""Latents decoded and seen by a preference model: values in float64, gradients, files, and the stage that learns so."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.batches import CONFIG, JUDGE, batch
from diffusion.vae import TINY, folder_of, model

from jaxpo.config import Beside, Denoise
from jaxpo.convert.model_io import load_model, read_config
from jaxpo.corpora.scenes.corpus import tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.diffusion.views import view
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import family, param_table
from jaxpo.models.spec import init_params
from jaxpo.models.vae.config import VAEDecoderConfig
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.denoise import beside_image_problems
from jaxpo.stages.beside import check_beside

RNG = np.random.default_rng(0)
LATENTS = (0.2 * RNG.standard_normal((2, 2, 2, 4))).astype(np.float32)


def decode(latents, params=None, **options):
    return family(TINY).decode(model() if params is None else params, latents, config=TINY, **options)


def silu(x):
    return x / (1 + np.exp(-x))


def norm(p, x):
    wide = x.reshape(*x.shape[:3], TINY.norm_num_groups, -1)
    wide = wide - wide.mean((1, 2, 4), keepdims=True)
    wide = wide / np.sqrt(np.mean(wide**2, (1, 2, 4), keepdims=True) + 1e-6)
    return wide.reshape(x.shape) * p["weight"] + p["bias"]


def conv(p, x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    _, h, w, _ = x.shape
    shifted = [padded[:, i : i + h, j : j + w] @ p["weight"][i, j] for i in range(3) for j in range(3)]
    return sum(shifted) + p["bias"]


def res(p, x):
    h = conv(p["conv2"], silu(norm(p["norm2"], conv(p["conv1"], silu(norm(p["norm1"], x))))))
    return h + (x @ p["conv_shortcut"]["weight"] + p["conv_shortcut"]["bias"] if "conv_shortcut" in p else x)


def attention(p, x):
    flat = norm(p["group_norm"], x).reshape(len(x), -1, x.shape[-1])
    q, k, v = (flat @ p[name]["weight"] + p[name]["bias"] for name in ("to_q", "to_k", "to_v"))
    scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(x.shape[-1]))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return x + (mixed @ p["to_out"]["0"]["weight"] + p["to_out"]["0"]["bias"]).reshape(x.shape)


def reference(latents):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model())
    h = latents.astype(np.float64) / 0.18215 + 0.1
    h = conv(p["conv_in"], h @ p["post_quant_conv"]["weight"] + p["post_quant_conv"]["bias"])
    h = attention(p["mid_block"]["attentions"]["0"], res(p["mid_block"]["resnets"]["0"], h))
    h = res(p["mid_block"]["resnets"]["1"], h)
    for i in ("0", "1"):
        for j in ("0", "1"):
            h = res(p["up_blocks"][i]["resnets"][j], h)
        if i == "0":
            h = conv(p["up_blocks"][i]["upsamplers"]["0"]["conv"], h.repeat(2, 1).repeat(2, 2))
    return conv(p["conv_out"], silu(norm(p["conv_norm_out"], h)))


def test_values_are_those_of_the_equations():
    assert decode(LATENTS).shape == (2, 4, 4, 3)
    np.testing.assert_allclose(decode(LATENTS), reference(LATENTS), rtol=1e-4, atol=1e-5)
    again = decode(LATENTS, remat=True)
    np.testing.assert_allclose(again, decode(LATENTS), atol=1e-6)


def triangle(n, size):
    """Weights `[size, n]` of a bilinear filter, as wide as a pixel of the smaller of the two grids is apart."""
    scale = n / size
    centre = (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(n) - centre[:, None]) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 3), (9, 12, 4), (4, 4, 7)])
def test_a_view_is_a_square_at_a_place_resized(height, width, size):
    images = RNG.standard_normal((2, height, width, 3)).astype(np.float32)
    side = round(0.8 * min(height, width))
    found = view(images, jnp.array([[0.0, 0.0], [0.999, 0.999]]), 0.8, size)
    corners = images[0, :side, :side], images[1, height - side :, width - side :]
    filter_ = triangle(side, size)
    expected = [np.einsum("is,jt,stc->ijc", filter_, filter_, corner.astype(np.float64)) for corner in corners]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_all_of_an_image_of_the_size_is_seen_as_it_is():
    images = RNG.standard_normal((1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(view(images, jnp.zeros((1, 2)), 504 / 512, 8), images)


def test_the_gradient_passes_through_decoder_and_view():
    places, weights = jnp.array([[0.1, 0.9], [0.5, 0.2]]), RNG.standard_normal((2, 2, 2, 3)).astype(np.float32)

    @jax.jit
    def score(latents):
        return jnp.sum(weights * jnp.tanh(view(decode(latents), places, 0.8, 2)))

    slope = np.asarray(jax.grad(score)(LATENTS))
    for direction in (slope / np.linalg.norm(slope), RNG.standard_normal(LATENTS.shape) / 4):
        change = (score(LATENTS + 3e-3 * direction) - score(LATENTS - 3e-3 * direction)) / 6e-3
        np.testing.assert_allclose(change, np.sum(slope * direction), rtol=2e-2, atol=2e-3)


LATENT = dataclasses.replace(CONFIG, in_channels=4, out_channels=4)
SETTINGS = {"sampler_steps": 4, "kept_steps": 2, "guidance": 2.0, "decode": True}


def test_the_reward_stage_learns_through_the_decoder():
    method = METHODS["longalign"](**SETTINGS)
    assert dict(method.NEEDS.networks) == {"reward": "network", "decoder": "network"}
    assert "decoder" not in dict(METHODS["longalign"].NEEDS.networks)
    objective = method.build(Scorer(LATENT), scorers={"reward": Scorer(JUDGE), "decoder": Scorer(TINY)})
    params = init_params(param_table(LATENT), jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    judge = {"model": init_params(param_table(JUDGE), jax.random.key(2))}
    given = batch(4, images=1, absent=())
    given = given.replace(images=np.zeros((4, 1, 4, 4, 4), np.float32))

    @jax.jit
    def run(model, decoder):
        frozen = {"reward": judge, "decoder": {"model": decoder}}
        features, _ = objective.encode({"model": model}, frozen, given, jax.random.key(3))
        return objective.loss(features, given, {}, objective.counts(given)).loss

    slopes, of_decoder = jax.jit(jax.grad(run, argnums=(0, 1)))(params, model())
    assert float(jnp.abs(slopes["proj_out"]["weight"]).max()) > 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_decoder))
    # The last map is read once in every kept step, and the gradient says how the loss falls along it.
    lower = {**params, "proj_out": jax.tree.map(lambda w, s: w - 0.3 * s, params["proj_out"], slopes["proj_out"])}
    assert run(lower, model()) < run(params, model())


@pytest.mark.parametrize(
    ("theirs", "part", "message"),
    [
        (TINY, "decode", None),
        (dataclasses.replace(TINY, latent_channels=16), "decode", "its latents have 16 channels, and .* 4"),
        (JUDGE, "decode", "denscore.*decodes no latents; name the folder vae/"),
        (JUDGE, "towers", None),
        (dataclasses.replace(JUDGE, in_channels=4), "towers", "its in_channels is 4, and what is decoded has 3"),
    ],
)
def test_what_stands_beside_a_model_of_latents(theirs, part, message):
    problems = list(beside_image_problems(LATENT, theirs, part, decoded=True))
    assert not problems if message is None else re.search(message, problems[0])


def test_a_decoder_reads_no_words_and_stands_beside_a_model_that_reads_some(tmp_path):
    beside = (("decoder", Beside(str(folder_of(tmp_path / "vae")))), ("reward", Beside("judge")))
    stage, said = Denoise(name="reward", loss=METHODS["longalign"](**SETTINGS), beside=beside), []
    inputs = SimpleNamespace(tokenizer=Tokenizer(tokenizer()), stages={})
    run = SimpleNamespace(stages=(SimpleNamespace(name="judge"),))
    for config in (LATENT, dataclasses.replace(LATENT, caption=None)):
        check_beside(
            SimpleNamespace(run=run, inputs=inputs, config=lambda _, config=config: config), stage, said.append
        )
    assert said == []


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def older(name):
    parts = name.split(".attentions.0.")
    new = next((new for new in OLD if len(parts) == 2 and parts[1].startswith(new)), None)
    return name if new is None else name.replace(f".attentions.0.{new}", f".attentions.0.{OLD[new]}")


@pytest.mark.parametrize("names", [lambda name: name, older])
def test_the_folder_of_a_vae_is_read_without_its_encoder(tmp_path, names):
    folder = folder_of(tmp_path / "vae", names)
    assert read_config(folder) == TINY
    jax.tree.map(np.testing.assert_array_equal, load_model(folder).params["model"], model())


def test_a_vae_of_another_form_is_refused(tmp_path):
    for name, changes, message in (
        ("a", {"up_block_types": ["AttnUpDecoderBlock2D"] * 2}, "up_block_types is Attn.*UpDecoderBlock2D for each"),
        ("b", {"latents_mean": [0.0] * 4}, "latents_mean"),
        ("c", {"norm_num_groups": 3}, "level 0: its width 4 is not a multiple of 3 groups"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_config(folder_of(tmp_path / name, **changes))
    for name, shift in (("d", 0.0), ("e", -0.25), ("f", None)):  # the mean of latents is of either sign
        found = read_config(folder_of(tmp_path / name, shift_factor=shift))
        assert found == dataclasses.replace(TINY, shift_factor=shift or 0.0)
    for name, shift in (("g", "-1"), ("h", float("nan")), ("i", -1e300), ("j", True)):
        with pytest.raises(CheckpointError, match=r"shift_factor is .*; it must be (a number|between -1e30)"):
            read_config(folder_of(tmp_path / name, shift_factor=shift))
    with pytest.raises(ConfigError, match="names no level"):
        VAEDecoderConfig(block_out_channels=())
