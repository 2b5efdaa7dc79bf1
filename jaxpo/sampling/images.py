"""Images from captions: DDIM with guidance, each from a noise of its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpo.data.images.batch import ImageBatch
from jaxpo.data.images.captions import filled
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.diffusion.ddim import Denoise, sample
from jaxpo.diffusion.guidance import two_networks
from jaxpo.diffusion.schedules import destinations, times
from jaxpo.errors import ConfigError
from jaxpo.models.family import limits
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.denoising import Denoiser, Text
from jaxpo.objectives.families.estimates import guided

Tree = Any
AT_ONCE = 64


@dataclass(frozen=True)
class ImageSampler:
    """How images are drawn.

    Attributes:
      steps: times at which the model is asked.
      guidance: w; 1 = the caption alone, 0 = no caption. 7.5 is usual for Stable Diffusion 1.5.
      rescale: share of the guided prediction's deviation that is set back, phi.
      eta: 0 = the noise decides; 1 = DDPM's fresh noise in every step.
      spacing: of the times.
      clip: bound of the estimates of the image, 1 for pixels; 0 = none, for latents.
      guide_users: guidance away from the empty caption and nobody, and so about the user as well; else the user stands
        beside the empty caption, too (PPD leaves this open).
    """

    steps: int = 25
    guidance: float = 3.0
    rescale: float = 0.0
    eta: float = 0.0
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    clip: float = 1.0
    guide_users: bool = False

    def problems(self) -> list[str]:
        """Settings out of range, one sentence each."""
        least: dict[str, float] = {"steps": 1, "guidance": 0, "rescale": 0, "eta": 0, "clip": 0}
        most: dict[str, float] = {"rescale": 1, "eta": 1}
        found = []
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = least.get(field.name), most.get(field.name, np.inf)
            if low is not None and not low <= value <= high:
                bound = f"at least {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
                found.append(f"--{field.name} is {value:g}; it must be {bound}.")
        return found


@dataclass(frozen=True)
class Drawn:
    """One image.

    Attributes:
      number: of its caption.
      sample: of the images of that caption.
      seed: of its noise, with which it is drawn again whatever is drawn beside it; fresh noise in the steps (eta above
        0) is drawn for all images of a call together.
      pixels: `[H, W, C]`, in [-1, 1] where the sampler clips.
    """

    number: int
    sample: int
    seed: int
    pixels: np.ndarray


def draw_images(
    model: Tree,
    config: Any,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    sampler: ImageSampler,
    *,
    n: int = 1,
    seed: int = 0,
    negative: Tree | None = None,
    segments: int = 1,
    user: np.ndarray | None = None,
    dtype: str = "float32",
) -> Iterator[Drawn]:
    """`n` images of every caption, in their order; image j of caption i has the seed `seed + i n + j`.

    Args:
      negative: of the same shape: guidance pushes away from what this network says without the caption, instead of from
        what the model itself says (Diffusion-NPO, Self-NPO).
      segments: pieces of a caption that the text tower reads each alone, cut at sentence marks.
      user: `[M, U]` tokens of the one whom the images are for; between two users lie the means of theirs.

    Raises:
      ConfigError: settings out of range, a model that has no text tower or reads states of a second encoder, or a user
        whom it cannot read.
    """
    if problems := sampler.problems():
        raise ConfigError(problems)
    width = getattr(config, "user_channels", 0)
    if user is not None and user.shape[-1] != width:
        raise ConfigError(f"the user's tokens are {user.shape[-1]} wide, and the model reads {width or 'no users'}.")
    if getattr(config, "text_adapter", None) is not None:
        raise ConfigError(
            "the model reads the states of a second text encoder (text_adapter), which words alone do not give; draw "
            "with a model that has none."
        )
    length = limits(config).context
    tokens, mask = caption_arrays(captions, tokenizer, segments, length)
    how = Denoiser.of(Scorer(config, dtype))
    run = jax.jit(partial(_drawn, how, sampler))
    wanted = [(i, j) for i in range(len(captions)) for j in range(n)]
    for first in range(0, len(wanted), AT_ONCE):
        part = wanted[first : first + AT_ONCE]
        # The last part is filled up, so that there is one program.
        rows = [i for i, _ in part] + [0] * (min(AT_ONCE, len(wanted)) - len(part))
        seeds = np.asarray([seed + i * n + j for i, j in part] + [0] * (len(rows) - len(part)), np.uint32)
        found = np.asarray(run(model, negative, user, tokens[rows], mask[rows], seeds))
        for (i, j), own, pixels in zip(part, seeds, found, strict=False):
            yield Drawn(i, j, int(own), pixels)


def caption_arrays(
    captions: Sequence[str], tokenizer: Tokenizer, segments: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Captions as a batch has them, `[N, S, L]` each; what is longer than the text tower reads is cut."""
    found = []
    for caption in captions:
        ids = [part[:length] for part in _pieces(caption, tokenizer, segments)[:segments]]
        found.append(filled(ids, segments, length))
    return np.stack([t for t, _ in found]), np.stack([m for _, m in found])


def cut_captions(captions: Sequence[str], tokenizer: Tokenizer, segments: int, length: int) -> int:
    """How many captions `caption_arrays` cuts."""
    pieces = [_pieces(caption, tokenizer, segments) for caption in captions]
    return sum(len(found) > segments or max(map(len, found)) > length for found in pieces)


def _pieces(caption: str, tokenizer: Tokenizer, segments: int) -> list[np.ndarray]:
    """int32 ids of a caption, or of its segments, all of them."""
    from jaxpo.diffusion.segments import split_caption

    parts = split_caption(caption) if segments > 1 else [caption]
    return [np.asarray(tokenizer.encode(part), np.int32) for part in parts]


def _drawn(
    how: Denoiser,
    sampler: ImageSampler,
    model: Tree,
    negative: Tree | None,
    user: Array | None,
    tokens: Array,
    mask: Array,
    seeds: Array,
) -> Float[Array, "B H W C"]:
    size, channels = how.config.sample_size, how.config.in_channels
    keys = jax.vmap(jax.random.key)(seeds)
    noise = jax.vmap(lambda key: jax.random.normal(key, (size, size, channels)))(keys)
    batch = ImageBatch(noise[:, None], tokens, mask, {}, jnp.arange(len(tokens)))
    seen = None if user is None else jnp.broadcast_to(user, (len(tokens), *user.shape))
    run = _guided(how, sampler, model, negative, batch, seen)
    src = times(sampler.spacing, sampler.steps, how.schedule.steps)
    dst = destinations(src, how.schedule.steps)
    key = jax.random.fold_in(keys[0], 1) if sampler.eta > 0 else None
    return sample(how.schedule, run, noise, src, dst, eta=sampler.eta, key=key, clip=sampler.clip or None)


def _guided(
    how: Denoiser, sampler: ImageSampler, model: Tree, negative: Tree | None, batch: ImageBatch, user: Array | None
) -> Denoise:
    text = how.text(model, batch)
    if negative is None:
        empty = how.empty(model, batch)
        options = dict[str, Any](rescale=sampler.rescale, user=user, guide_users=sampler.guide_users)
        return guided(how, model, text, empty, sampler.guidance, **options)

    def alone(model: Tree, text: Text, user: Array | None) -> Denoise:
        return lambda x, t: how.predict(model, x, t, text, user)

    nobody = None if sampler.guide_users else user
    sides = alone(model, text, user), alone(negative, how.empty(negative, batch), nobody)
    return two_networks(*sides, sampler.guidance, rescale=sampler.rescale)


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, C]` of pixels in [-1, 1]."""
    return np.clip(np.round((pixels + 1.0) * 127.5), 0, 255).astype(np.uint8)


def grid_of(images: Sequence[np.ndarray], columns: int, *, scale: int = 1, gap: int = 1) -> np.ndarray:
    """uint8 `[h, w, 3]`: images row by row on white, each pixel `scale` times as large."""
    height, width = (side * scale for side in images[0].shape[:2])
    rows = -(-len(images) // columns)
    whole = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        whole[top : top + height, left : left + width] = image.repeat(scale, 0).repeat(scale, 1)
    return whole
