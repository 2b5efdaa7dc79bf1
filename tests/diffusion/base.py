"""The small text-to-image model that experiments start from: how it is read, sampled and measured.

`scripts/diffusion_base` trained it, in 3,000 steps and 233 s of processors; `ASSET` has the averaged weights in
float16, and `SHA256` says that they are those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from jaxpo.config.noise import NoiseSchedule
from jaxpo.corpora.scenes import VOCABULARY, Scene, adherence, encode, exact
from jaxpo.diffusion.ddim import sample
from jaxpo.diffusion.guidance import classifier_free
from jaxpo.diffusion.parameterisation import add_noise, target
from jaxpo.diffusion.schedules import destinations, schedule, times
from jaxpo.losses.denoising import squared_error
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.dit.presets import PRESETS
from jaxpo.models.family import caption_states, denoiser, param_table
from jaxpo.models.spec import is_param, leaves

ASSET = Path(__file__).parents[1] / "assets" / "diffusion_base.safetensors"
SHA256 = "28de5810d53cbb0fea866f7e0a0deb053aac503e12946758bba6edc509c84036"
IMAGE = (8, 8, 3)
LENGTH = 8
"""Words of a caption of one clause and the background, at least."""
CONFIG = replace(
    PRESETS["nano_dit"],
    caption=CaptionConfig(vocab_size=len(VOCABULARY)),
    schedule=NoiseSchedule(parameterisation="velocity"),
)
PERSONAL = replace(CONFIG, user_channels=64)
"""The base with attention to users."""
SCHEDULE = schedule(CONFIG.schedule)
GUIDANCE, STEPS = 3.0, 25
"""Of samples: the scale of guidance, and DDIM steps at trailing times."""
Tree = Any


@cache
def base() -> Tree:
    """The parameters, float32 and of numpy, so that a function may ask for them while it is traced."""
    found = hashlib.sha256(ASSET.read_bytes()).hexdigest()
    assert found == SHA256, f"{ASSET}: not the weights that were trained, {found}"
    table, stored = param_table(CONFIG), load_file(ASSET)
    values = [stored[name].astype(np.float32) for name, _ in leaves(table)]
    return jax.tree.unflatten(jax.tree.structure(table, is_leaf=is_param), values)


def words(captions: Sequence[str]) -> jax.Array:
    """int32 `[N, LENGTH]`."""
    return jnp.asarray(encode(captions, LENGTH)[0])


def predict(params: Tree, x: jax.Array, t: jax.Array, tokens: jax.Array, user: jax.Array | None = None) -> jax.Array:
    """The model's velocity for noisy images and captions, and users where there are some."""
    config = CONFIG if user is None else PERSONAL
    return denoiser(config)(params, x, t, caption_states(params, tokens, config, jnp.float32), user=user, config=config)


def errors(params: Tree, images: jax.Array, t: jax.Array, noise: jax.Array, tokens: jax.Array) -> jax.Array:
    """`[N]` squared errors of the model's velocity for images to which noise was added."""
    output = predict(params, add_noise(SCHEDULE, images, noise, t), t, tokens)
    return squared_error(output, target(SCHEDULE, images, noise, t))


@partial(jax.jit, static_argnames=("guidance", "steps"))
def samples(
    params: Tree,
    noise: jax.Array,
    tokens: jax.Array,
    user: jax.Array | None = None,
    *,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> jax.Array:
    """Images by guided DDIM from unit noise, cut to [-1, 1] at the end alone."""

    config = CONFIG if user is None else PERSONAL

    def denoise(x: jax.Array, t: jax.Array, context: jax.Array, mask: None) -> jax.Array:
        seen = None if user is None else jnp.tile(user, (len(x) // len(user), 1, 1))
        return denoiser(config)(params, x, t, context, user=seen, config=config)

    states = [caption_states(params, k, config, jnp.float32) for k in (tokens, jnp.zeros_like(tokens))]
    guided = classifier_free(denoise, *states, guidance)
    src = times("trailing", steps)
    return jnp.clip(sample(SCHEDULE, guided, noise, src, destinations(src)), -1, 1)


def random_times(key: jax.Array, count: int) -> jax.Array:
    """Of the schedule, all alike."""
    return jax.random.randint(key, (count,), 0, SCHEDULE.steps)


def unit_noise(seed: int, count: int) -> jax.Array:
    """What samples start from."""
    return jax.random.normal(jax.random.key(seed), (count, *IMAGE))


@jax.jit
def informed(params: Tree, images: jax.Array, tokens: jax.Array) -> jax.Array:
    """`[2]` mean error at times of much noise with the own captions, and with each other's: the gap is what is read."""
    t, noise = jnp.full(len(images), 800), jax.random.normal(jax.random.key(0), images.shape)
    return jnp.stack([errors(params, images, t, noise, x).mean() for x in (tokens, jnp.roll(tokens, 1, axis=0))])


def followed(
    params: Tree, scenes: Sequence[Scene], *, seed: int = 0, guidance: float = GUIDANCE
) -> tuple[float, float]:
    """Share of clauses that samples of the scenes' captions show, and of samples that show that and nothing else."""
    tokens = words([scene.caption for scene in scenes])
    images = np.asarray(samples(params, unit_noise(seed, len(scenes)), tokens, guidance=guidance))
    return float(adherence(images, scenes).mean()), float(exact(images, scenes).mean())
