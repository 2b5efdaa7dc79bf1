"""DDIM (arXiv:2010.02502): one step between two times that the caller names, and the sampler made of such steps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.diffusion.parameterisation import Images, Times, implied_noise, to_noise, to_x0
from jaxpo.diffusion.schedules import Schedule, levels_like

Denoise = Callable[[Images, Int[Array, "B"]], Images]
"""`denoise(x [B, ...], t [B])` in the schedule's parameterisation; guidance and text are inside."""


def ddim(schedule: Schedule, x: Images, noise: Images, src: Times, dst: Times) -> Images:
    """The latent at `dst`, above or below `src`, on the line that this noise estimate means; deterministic.

        x0 = (x - s_src e) / a_src,    x' = a_dst x0 + s_dst e

    Exact for a constant e, so that a step there and a step back is no step. Each of the times is one number or one per
    example; a negative one is the clean end.

    Reference: Song et al. 2021, arXiv:2010.02502, Eq. 12 with sigma = 0.
    """
    a, s = levels_like(schedule, src, x)
    return land(schedule, (x - s * noise) / a, noise, dst)


def land(schedule: Schedule, x0: Images, noise: Images, dst: Times) -> Images:
    """x' = a_dst x0 + s_dst e: the end of a step whose estimates are at hand."""
    a, s = levels_like(schedule, dst, x0)
    return a * x0 + s * noise


def sigma(schedule: Schedule, src: Times, dst: Times, x: Images) -> Images:
    """Standard deviation of the posterior of the latent at `dst` < `src`, given the image; shaped for `x`.

        sigma = s_dst / s_src sqrt(s_src^2 - (a_src / a_dst)^2 s_dst^2)
              = sqrt((1 - abar_dst) / (1 - abar_src)) sqrt(1 - abar_src / abar_dst)   where a^2 + s^2 = 1

    Reference: Song et al. 2021, arXiv:2010.02502, Eq. 16 with eta = 1.
    """
    a, s = levels_like(schedule, src, x)
    a_to, s_to = levels_like(schedule, dst, x)
    return s_to / s * jnp.sqrt(jnp.maximum(s * s - (a / a_to * s_to) ** 2, 0.0))


def step(
    schedule: Schedule,
    x: Images,
    output: Images,
    src: Times,
    dst: Times,
    *,
    eta: float = 0.0,
    z: Images | None = None,
    clip: float | None = None,
) -> Images:
    """A sampler's step from the model's output; with fresh noise `z` where eta is above 0.

        x' = a_dst x0 + sqrt(s_dst^2 - sigma^2) e + sigma z,    sigma = eta sigma(src, dst)

    The estimates come from the output directly, so that a velocity needs no division by a = 0. At eta = 1 it is DDPM's
    posterior step.

    Args:
      clip: x0 is held within [-clip, clip] and e is taken anew from it (`use_clipped_model_output` of diffusers, which
        leaves it off): guided steps whose e stays that of the output drift off the line, until a caption is lost.

    Reference: Song et al. 2021, arXiv:2010.02502, Eq. 12.
    """
    x0, noise = to_x0(schedule, output, x, src), to_noise(schedule, output, x, src)
    if clip is not None:
        x0 = jnp.clip(x0, -clip, clip)
        noise = implied_noise(schedule, x, x0, src)
    if eta == 0.0 or z is None:
        return land(schedule, x0, noise, dst)
    spread = eta * sigma(schedule, src, dst, x)
    a, s = levels_like(schedule, dst, x)
    return a * x0 + jnp.sqrt(jnp.maximum(s * s - spread * spread, 0.0)) * noise + spread * z


def sample(
    schedule: Schedule,
    denoise: Denoise,
    x: Float[Array, "B ..."],
    src: Int[np.ndarray, "n"],
    dst: Int[np.ndarray, "n"],
    *,
    eta: float = 0.0,
    key: jax.Array | None = None,
    clip: float | None = None,
) -> Float[Array, "B ..."]:
    """From `x` at the first of the times to the end of the last step, in one scan.

    Args:
      x: `[B, ...]` unit noise at the last time of a schedule, or whatever latent `src[0]` has.
      src, dst: `[n]` of `schedules.times` and `schedules.destinations`.
      eta: 0 is deterministic; above it `key` gives the noise of each step.
    """
    if eta > 0 and key is None:
        raise ValueError(f"eta {eta} draws noise in every step: give a key")
    keys = None if key is None else jax.random.split(key, len(src))

    def one(x: Array, inputs: tuple[Array, Array, Array | None]) -> tuple[Array, None]:
        here, there, key = inputs
        output = denoise(x, jnp.full(x.shape[:1], here))
        z = None if key is None or eta == 0 else jax.random.normal(key, x.shape)
        return step(schedule, x, output, here, there, eta=eta, z=z, clip=clip), None

    return jax.lax.scan(one, x, (jnp.asarray(src), jnp.asarray(dst), keys))[0]
