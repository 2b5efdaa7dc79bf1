"""Estimates of an image by a model and by its teacher, which began from one latent (Self-NPO, arXiv:2505.11777)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.images.batch import ImageBatch
from jaxpo.diffusion.ddim import Denoise
from jaxpo.diffusion.guidance import classifier_free
from jaxpo.diffusion.parameterisation import add_noise, to_x0
from jaxpo.diffusion.rollout import grid, later, renoise, truncated
from jaxpo.objectives.families.denoising import FURTHER, Denoiser, Draws, Text, weight_of

if TYPE_CHECKING:
    from jaxpo.objectives.methods.self_npo import SelfNPO

Tree = Any
PLACE, LATER, AGAIN = range(FURTHER, FURTHER + 3)


@struct.dataclass
class Estimated:
    """What the trained model makes of a noisier latent, and what its teacher made of the one before.

    Attributes:
      estimate: of the image by the trained model.
      target: by the teacher; a constant.
    """

    estimate: Float[Array, "N H W C"]
    target: Float[Array, "N H W C"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]


def guided(
    how: Denoiser,
    model: Tree,
    text: Text,
    empty: Text,
    scale: float,
    *,
    rescale: float = 0.0,
    user: Float[Array, "B M U"] | None = None,
    guide_users: bool = False,
) -> Denoise:
    """`denoise(x, t)` of a model with guidance.

    Args:
      user: seen beside the caption and beside the empty one alike, so that guidance is about the caption.
      guide_users: beside the empty caption nobody is seen, so that guidance is about the user, too.
    """

    def denoise(x: Array, t: Any, states: Array, mask: Any) -> Array:
        seen = user
        if user is not None and len(x) > len(text.states):
            seen = jnp.concatenate([user, jnp.zeros_like(user) if guide_users else user])
        return how.predict(model, x, t, Text(states, mask), seen)

    masks = {"mask": text.mask, "empty_mask": empty.mask}
    return classifier_free(denoise, text.states, empty.states, scale, rescale=rescale, **masks)


def estimated(
    how: Denoiser,
    method: SelfNPO,
    params: Tree,
    frozen: Mapping[str, Tree],
    batch: ImageBatch,
    rng: jax.Array | None,
) -> Estimated:
    """The teacher's truncated roll-out and estimate, noise anew from where it ended, and the student's estimate."""
    draws, teacher = how.draw(batch, rng), jax.lax.stop_gradient(frozen["reference"])
    taught = how.of_beside("reference")
    text, empty = taught.text(teacher, batch), taught.empty(teacher, batch)
    run = guided(taught, teacher, text, empty, 1.0 + method.teacher_w)
    x, start, steps = _start(how, method, batch, draws)
    most = method.sampler_steps if method.start == "noise" else method.truncation
    ended = truncated(taught.schedule, run, x, start, steps=steps, n=method.sampler_steps, most=most)

    def again(key: Array, t: Array) -> tuple[Array, Array]:
        s = later(jax.random.fold_in(key, LATER), t[None], how.schedule.steps)[0]
        return s, jax.random.normal(jax.random.fold_in(key, AGAIN), batch.images.shape[2:])

    s, z = jax.vmap(again)(draws.keys, ended.t)
    noisier = jax.lax.stop_gradient(renoise(how.schedule, ended.x, ended.t, s, z))
    output = how.predict(params["model"], noisier, s, how.text(params["model"], batch))
    estimate = to_x0(how.schedule, output, noisier, s)
    return Estimated(estimate, ended.x0, batch.present, weight_of(batch))


def _start(
    how: Denoiser, method: SelfNPO, batch: ImageBatch, draws: Draws
) -> tuple[Float[Array, "N H W C"], Int[Array, "N"], Any]:
    """Latents, their places on the sampler's grid, and how many steps follow."""
    n = method.sampler_steps
    drawn = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, PLACE), (), 1, n + 1))(draws.keys)
    if method.start == "noise":
        return draws.noise, jnp.full(drawn.shape, n), drawn
    times = jnp.asarray(grid(how.schedule, n))[drawn]
    return add_noise(how.schedule, batch.images[:, 0], draws.noise, times), drawn, method.truncation
