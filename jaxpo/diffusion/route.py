"""The linear route from a few noise predictions to the image (LongAlign, arXiv:2410.11817, and its rewards)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.diffusion.ddim import Denoise, ddim
from jaxpo.diffusion.parameterisation import Images, to_noise
from jaxpo.diffusion.schedules import Schedule, per_example


def coefficients(
    schedule: Schedule, src: Int[np.ndarray, "n"], dst: Int[np.ndarray, "n"]
) -> tuple[float, Float[np.ndarray, "n"]]:
    """`(c_T, c)` of x_end = c_T x_T + sum_k c_k e_k: what a deterministic sampler makes of its noise estimates.

        x' = (a' / a) x + (s' - a' s / a) e,    c_k = (s'_k - a'_k s_k / a_k) a_end / a'_k < 0

    Computed in float64 of the float32 tables.

    Raises:
      ValueError: a source at which nothing is left of the image, a = 0: there the noise says nothing about it.
    """
    levels = [x.astype(np.float64) for x in (schedule.signal, schedule.noise)]
    at = lambda t: [x[np.where(np.asarray(t) < 0, schedule.steps, t)] for x in levels]  # noqa: E731
    (a, s), (a_to, s_to) = at(src), at(dst)
    if np.any(a == 0):
        raise ValueError("coefficients: at the first time nothing is left of the image; start at an earlier one")
    return float(a_to[-1] / a[0]), (s_to - a_to * s / a) * (a_to[-1] / a_to)


def kept_steps(start: Int[Array, ""] | int, n: int, every: int = 10) -> Int[Array, "k"]:
    """The steps start, start + every .. below n: places in the list of times. The `every` starts partition them.

    Raises:
      ValueError: the steps are not a multiple of `every`, so that not every start has as many.
    """
    if n % every:
        raise ValueError(f"kept_steps: {n} steps are not a multiple of {every}")
    return start + jnp.arange(n // every) * every


def linear_route(
    schedule: Schedule,
    denoise: Denoise,
    x: Float[Array, "B ..."],
    src: Int[np.ndarray, "n"],
    dst: Int[np.ndarray, "n"],
    kept: Int[Array, "k"],
) -> Float[Array, "B ..."]:
    """A deterministic sample whose gradient passes through the noise predictions of a few steps alone.

        x0 = c_T x_T + sum_k c_k e_k,    dL/de_k = c_k dL/dx0 for the kept ones, 0 for the others

    The latents that the network reads are constants, so that no product of Jacobians arises. The sampler runs without a
    gradient; the network is then called again at the kept latents, and these calls are recomputed in the backward
    pass, one after another: memory is that of one call.

    Args:
      denoise: with its guidance (7.5 in the paper).
      x: `[B, ...]` unit noise.
      src, dst: `[n]` of `schedules.times` and `schedules.destinations`; 50 in the paper, of which 5 are kept.
      kept: `[k]` of `kept_steps`.

    Returns:
      `[B, ...]` the sample; its value is that of `ddim.sample` with eta = 0.

    Reference: Liu et al. 2025, arXiv:2410.11817, section 4.2; the authors' code, unet_reward.py.
    """
    _, c = coefficients(schedule, src, dst)
    sources = jnp.asarray(src)

    def predicted(x: Images, t: Array) -> Images:
        at = jnp.full(x.shape[:1], t)
        return to_noise(schedule, denoise(x, at), x, at)

    def one(x: Images, inputs: tuple[Array, Array]) -> tuple[Images, Images]:
        t, there = inputs
        return ddim(schedule, x, predicted(x, t), t, there), x

    end, latents = jax.lax.stop_gradient(jax.lax.scan(one, x, (sources, jnp.asarray(dst))))
    again = jax.checkpoint(predicted)

    def add(total: Images, inputs: tuple[Array, Array, Array]) -> tuple[Images, None]:
        latent, t, factor = inputs
        e = again(latent, t)
        return total + per_example(factor, e) * (e - jax.lax.stop_gradient(e)), None

    kept_c = jnp.asarray(c, jnp.float32)[kept]
    return jax.lax.scan(add, end, (latents[kept], sources[kept], kept_c))[0]
