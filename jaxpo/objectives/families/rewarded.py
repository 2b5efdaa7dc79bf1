"""Pictures and captions in the space of a preference model: its training, and rewards of what a model draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.images.batch import CHOSEN, REJECTED, ImageBatch
from jaxpo.diffusion.route import kept_steps, linear_route
from jaxpo.diffusion.schedules import destinations, times
from jaxpo.diffusion.views import view
from jaxpo.errors import ConfigError
from jaxpo.losses.longalign import common_direction, reweighted, segment_text, unit
from jaxpo.models.family import family
from jaxpo.models.parts import Towers
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.objectives.families.denoising import EVALUATION, FURTHER, Denoiser, flat, weight_of
from jaxpo.objectives.families.estimates import guided

if TYPE_CHECKING:
    from jaxpo.objectives.methods.longalign import LongAlign

Tree = Any
ROUTE = 1 << 20
"""Folded into a step's key, far from the numbers of examples."""
VIEW = FURTHER
"""Folded into an example's, for the place of what is seen of its image."""


def towers(config: Any) -> Towers:
    """Those of a model; ConfigError where it has none."""
    found = family(config)
    if found.towers is None:
        raise ConfigError(f"a model of the family {found.name!r} does not say how well pictures and captions fit.")
    return found.towers


def caption_feature(config: Any, params: Tree, batch: ImageBatch) -> Float[Array, "N D"]:
    """The mean of the unit directions of a caption's segments."""
    directions = towers(config).texts(params, batch.tokens, batch.text_mask)
    return segment_text(directions, jnp.any(batch.text_mask, axis=-1))


@struct.dataclass
class Fitting:
    """How well either image of a pair fits the caption.

    Attributes:
      scores: `<t, unit(g)>` of the chosen and of the rejected image.
      log_scale: the model's, the same for every example.
    """

    scores: Float[Array, "N 2"]
    log_scale: Float[Array, "N"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]


def fitting(config: Any, params: Tree, batch: ImageBatch) -> Fitting:
    """Of the trained preference model."""
    model = params["model"]
    text = caption_feature(config, model, batch)
    images = unit(towers(config).images(model, flat(batch.images))).reshape(batch.rows, 2, -1)
    scores = jnp.einsum("nd,nkd->nk", text, images)
    scale = jnp.broadcast_to(model["log_scale"], (batch.rows,))
    return Fitting(scores, scale, batch.present, weight_of(batch))


def fitting_metrics(features: Fitting) -> dict[str, Mean]:
    """The share of pairs that are judged as they are labelled, and the mean difference of the scores."""
    margin = features.scores[:, CHOSEN] - features.scores[:, REJECTED]
    return {
        "accuracy": masked_mean((margin > 0).astype(jnp.float32), features.present),
        "margin": masked_mean(margin, features.present),
    }


@struct.dataclass
class Rewarded:
    """What a model drew of its captions, as a frozen preference model sees it.

    Attributes:
      images: features of the drawn images, which get the gradient.
      texts: of the captions; constants.
    """

    images: Float[Array, "N D"]
    texts: Float[Array, "N D"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]


def rewarded(
    how: Denoiser,
    method: LongAlign,
    params: Tree,
    frozen: Mapping[str, Tree],
    batch: ImageBatch,
    rng: jax.Array | None,
) -> Rewarded:
    """Draw an image of every caption by the linear route, and read both with the preference model beside it."""
    judge = how.beside["reward"]
    model, draws = params["model"], how.draw(batch, rng)
    run = guided(how, model, how.text(model, batch), how.empty(model, batch), method.guidance)
    src = times("trailing", method.sampler_steps, how.schedule.steps)
    every = method.sampler_steps // method.kept_steps
    key = jax.random.fold_in(jax.random.key(EVALUATION) if rng is None else rng, ROUTE)
    kept = kept_steps(jax.random.randint(key, (), 0, every), method.sampler_steps, every)
    x0 = linear_route(how.schedule, run, draws.noise, src, destinations(src, how.schedule.steps), kept)
    if method.decode:
        x0 = decoded(how, jax.lax.stop_gradient(frozen["decoder"]["model"]), x0)
    places = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, VIEW), (2,)))(draws.keys)
    reward = jax.lax.stop_gradient(frozen["reward"]["model"])
    texts = caption_feature(judge, reward, batch)
    shown = view(x0, places, method.crop, judge.sample_size)
    return Rewarded(towers(judge).images(reward, shown), texts, batch.present, weight_of(batch))


def decoded(how: Denoiser, decoder: Tree, latents: Float[Array, "N h w c"]) -> Float[Array, "N H W C"]:
    """The pictures of latents, by the decoder beside the model; rematerialised as the model is."""
    config = how.beside["decoder"]
    decode = family(config).decode
    if decode is None:
        raise ConfigError(f"a model of the family {family(config).name!r} decodes no latents.")
    return decode(decoder, latents, config=config, dtype=how.dtype, remat=how.remat)


def rewarded_metrics(features: Rewarded) -> dict[str, Mean]:
    """The score `<t, unit(g)>`, and its two parts: of the caption alone, and of what all captions share."""
    direction = common_direction(features.texts, where=features.present)
    own, images = reweighted(features.texts, direction, omega=0.0), unit(features.images)
    whole, relevant = (jnp.sum(t * images, axis=-1) for t in (features.texts, own))
    found = {"reward": whole, "reward/relevant": relevant, "reward/shared": whole - relevant}
    return {name: masked_mean(x, features.present) for name, x in found.items()}
