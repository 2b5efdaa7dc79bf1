"""Truncated roll-outs (Self-NPO, arXiv:2505.11777): a few steps of a teacher's sampler, its estimate, noise anew."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpo.diffusion.ddim import Denoise, ddim
from jaxpo.diffusion.parameterisation import Images, Times, to_noise, to_x0
from jaxpo.diffusion.schedules import Schedule, levels_like, per_example, times


class Truncated(NamedTuple):
    """Where a truncated roll-out ended.

    Attributes:
      x: `[B, ...]` x_t.
      t: `[B]` its time.
      x0: `[B, ...]` x^, the teacher's estimate of the image there, the student's target.
    """

    x: Float[Array, "B ..."]
    t: Int[Array, "B"]
    x0: Float[Array, "B ..."]


def grid(schedule: Schedule, n: int = 25) -> Int[np.ndarray, "n+1"]:
    """Time 0 and then the n trailing times, ascending: 0, 39, 79 .. 999."""
    return np.append(0, times("trailing", n, schedule.steps)[::-1]).astype(np.int32)


def truncated(
    schedule: Schedule,
    teacher: Denoise,
    x: Float[Array, "B ..."],
    start: Int[Array, "B"],
    *,
    steps: int | Int[Array, "B"] = 5,
    n: int = 25,
    most: int | None = None,
) -> Truncated:
    """K deterministic DDIM steps down the grid, then the teacher's estimate of the image. Constants, no gradient.

        x_{g_i} -> x_{g_{i - 1}} -> .. (no further than time 0),    x^ = x0(x_t) of one more evaluation

    Args:
      teacher: with its guidance: scale 1 + teacher_w of `guidance.classifier_free`, 0 the paper, -1 and -5 the released
        code of SD 1.5 and SDXL, whose targets see no prompt, or are pushed away from it. Frozen, or an average of the
        student's weights.
      x: `[B, ...]` latents at `grid(n)[start]`: noised images (the code), or pure noise at start = n (the paper).
      start: `[B]` places in `grid(n)`, 1 to n; 0 is time 0 itself.
      steps: K, one for all or one per example, as of the paper's roll-outs from pure noise to a random time.
      n: times of the sampler.
      most: the largest of `steps` where they are an array.

    Reference: Wang et al. 2026, arXiv:2505.11777, section 4; the authors' code, train.py.
    """
    points = jnp.asarray(grid(schedule, n))
    length = most if most is not None else steps
    if not isinstance(length, int):
        raise ValueError("truncated: give `most`, the largest number of steps, where `steps` is an array")

    def one(state: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
        x, place = state
        src, below = points[place], jnp.where(k < steps, jnp.maximum(place - 1, 0), place)
        moved = ddim(schedule, x, to_noise(schedule, teacher(x, src), x, src), src, points[below])
        return (jnp.where(per_example(below == place, x), x, moved), below), None

    (x, place), _ = jax.lax.scan(one, (x, jnp.asarray(start)), jnp.arange(length))
    t = points[place]
    return jax.lax.stop_gradient(Truncated(x, t, to_x0(schedule, teacher(x, t), x, t)))


def renoise(schedule: Schedule, x: Images, t: Times, s: Times, z: Images) -> Images:
    """From a latent at t to one at s > t, with the marginal of the forward process.

        x_s = (a_s / a_t) x_t + sqrt(s_s^2 - s_t^2 a_s^2 / a_t^2) z

    Reference: Wang et al. 2026, arXiv:2505.11777, section 4: from x_t, not from its estimate of the image.
    """
    a_t, s_t = levels_like(schedule, t, x)
    a_s, s_s = levels_like(schedule, s, x)
    ratio = a_s / a_t
    return ratio * x + jnp.sqrt(jnp.maximum(s_s**2 - (ratio * s_t) ** 2, 0.0)) * z


def later(key: jax.Array, t: Int[Array, "B"], steps: int) -> Int[Array, "B"]:
    """s ~ U{t + 1 .. T - 1}; T - 1 where t is that already."""
    return jnp.minimum(t + 1 + jax.random.randint(key, t.shape, 0, jnp.maximum(steps - 1 - t, 1)), steps - 1)
