"""Self-NPO (arXiv:2505.11777): a negative model, fine-tuned on its own blurred estimates of images."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, keep


def self_npo(
    estimate: Float[Array, "B ..."],
    target: Float[Array, "B ..."],
    *,
    form: Literal["huber", "squared"] = "huber",
    width: float = 1e-3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Self-NPO: the student's estimate of the image, from a noisier latent, against the teacher's.

        d = f(x_s, s, c) - x^,    L = mean over dimensions of sqrt(d^2 + c^2) - c    (squared: d^2)

    Args:
      estimate: `[B, ...]` f = (x_s - s_s e(x_s)) / a_s of the student at s > t.
      target: `[B, ...]` x^, the teacher's estimate at t; a constant. It, x_t and x_s are those of
        `jaxpo.diffusion.rollout`.
      form: "huber" is the released code, "squared" the paper.
      width: c of the pseudo-Huber loss.
      where: `[B]` False where there is no example.

    Returns:
      `[B]` float32 loss, 0 where there is no example.

    Limits: 0, with a gradient of 0, where they agree; large differences cost |d| - c, small ones d^2 / 2c. With the
    squared loss a teacher that is the exact posterior mean is a fixed point: a perfect model learns nothing.

    Reference: Wang et al. 2026, arXiv:2505.11777; the authors' code, Self-NPO/train.py.
    """
    check_choice("form", form, ("huber", "squared"))
    rows = None if where is None else where.reshape(where.shape + (1,) * (jnp.ndim(estimate) - 1))
    f, x = clean(rows, estimate, jax.lax.stop_gradient(target))
    square = jnp.square(f - x)
    # sqrt(d^2 + c^2) - c without the difference of two nearly equal numbers.
    terms = square / (jnp.sqrt(square + width**2) + width) if form == "huber" else square
    return keep(where, jnp.mean(terms.reshape(len(f), -1), axis=-1))
