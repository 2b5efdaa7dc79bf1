"""DDIM inversion: from an image to the latent that belongs to it at a time, by the model instead of by chance."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.diffusion.ddim import Denoise, ddim, sigma
from jaxpo.diffusion.parameterisation import to_noise
from jaxpo.diffusion.schedules import Schedule, per_example
from jaxpo.errors import ConfigError

Grid = Literal["exact", "code"]
Correct = Literal["dst", "src"]


def segments(
    schedule: Schedule, t: Int[Array, "B"], n: int, grid: Grid
) -> tuple[Int[Array, "n"], Int[Array, "n B"], Int[Array, "n B"]]:
    """`(times fed to the model [n], sources [n, B], destinations [n, B])`; a segment from s to s moves nothing.

        exact: sources -1, T/n - 1, 2 T/n - 1 .. below t, the last destination is t itself, and -1 is fed as 0
        code:  sources 1 - T/n, 1, 1 + T/n .. below t, destinations T/n later, so up to T/n - 1 beyond t, and all
               fed as they are, the first one negative

    Raises:
      ConfigError: n is not within [1, T], or the code's strides do not divide T.
    """
    if not 1 <= n <= schedule.steps:
        raise ConfigError(f"inversion steps: {n}; choose 1 to {schedule.steps}, the times that the schedule has")
    if grid == "exact":
        ends = np.round(np.arange(n + 1) * schedule.steps / n).astype(np.int32) - 1
        src, dst = ends[:-1, None], jnp.minimum(ends[1:, None], t)
        fed = np.maximum(ends[:-1], 0)
    elif grid == "code":
        if schedule.steps % n:
            raise ConfigError(f"inversion steps: {n} do not divide the {schedule.steps} times; grid 'exact' takes any")
        stride = schedule.steps // n
        fed = np.arange(n, dtype=np.int32) * stride + 1 - stride
        src, dst = fed[:, None], jnp.broadcast_to(fed[:, None] + stride, (n, len(t)))
    else:
        raise ConfigError(f"grid: {grid!r}; choose one of exact, code")
    here = jnp.where(src < t, src, t)
    return jnp.asarray(fed), here, jnp.where(src < t, dst, here)


def invert(
    schedule: Schedule,
    denoise: Denoise,
    x0: Float[Array, "B ..."],
    t: Int[Array, "B"],
    *,
    n: int = 10,
    grid: Grid = "exact",
    corrections: int = 0,
    correct_at: Correct = "dst",
    eta: float = 0.0,
    noise: Float[Array, "n B ..."] | None = None,
) -> Float[Array, "B ..."]:
    """The latents at `t` that DDIM, run backwards from these images, arrives at. A constant: no gradient passes.

        e1 = e(x, s),    x <- ddim(x, e1, s -> s')                                  for every source s < t
        corrected (ReNoise):  e2 = e(x', s'),  e = (e1 + e2) / 2,  x <- ddim(x, e, s -> s')
        noisy (InPO):         x <- x + eta sigma(s' -> s) z

    Args:
      denoise: guidance 1 and the current network in the papers.
      x0: `[B, ...]` images or latents of images.
      t: `[B]` times; the two images of a pair share theirs.
      n: segments of the whole schedule (InPO 10, SmPO 9 in its paper and 5 in its code).
      grid: "exact" starts at the image and ends at t. "code" is that of the released scripts (`segments`), whose latent
        lies on the first grid point at or above t, or at the last one, though the loss is taken at t.
      corrections: ReNoise's per segment; after the first one e2 is taken at the corrected latent.
      correct_at: the time fed for e2: "dst", where the latent is, or "src", as SmPO's code does.
      eta, noise: of the released InPO script, 0.1 and `[n, B, ...]` unit noise; None = none.

    Returns:
      `[B, ...]`: `implied_noise` of it and x0 is the tau of the losses.

    Reference: Lu et al. 2025, arXiv:2503.18454; 2025, arXiv:2506.02698; the correction: Garibi et al. 2024,
    arXiv:2403.14602.
    """
    if correct_at not in ("dst", "src"):
        raise ConfigError(f"correct_at: {correct_at!r}; choose one of dst, src")
    fed, src, dst = segments(schedule, t, n, grid)

    def estimate(x: Array, at: Array) -> Array:
        return to_noise(schedule, denoise(x, at), x, jnp.maximum(at, 0))

    def one(x: Array, inputs: tuple[Array, Array, Array, Array | None]) -> tuple[Array, None]:
        at, here, there, z = inputs
        start = jnp.full(t.shape, at)
        first = estimate(x, start)
        moved = ddim(schedule, x, first, here, there)
        for _ in range(corrections):
            second = estimate(moved, there if correct_at == "dst" else start)
            moved = ddim(schedule, x, 0.5 * (first + second), here, there)
        if z is not None:
            moved = moved + eta * sigma(schedule, there, here, x) * z
        return jnp.where(per_example(here == there, x), x, moved), None

    x0 = jax.lax.stop_gradient(x0)
    drawn = noise if eta > 0 else None
    return jax.lax.stop_gradient(jax.lax.scan(one, x0, (fed, src, dst, drawn))[0])
