"""LongAlign (arXiv:2410.11817): rewards of long captions, less what every caption has in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def longalign(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    direction: Float[Array, "D"],
    *,
    omega: float = 0.3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """LongAlign's reward loss: the part of a caption's score that is about this caption, and omega of the rest.

        t = t_perp + eta V,    R = <t_perp, g> + omega eta <V, g>,    L = (1 - R) / 2 - 0.09 (1 - omega)

    Args:
      images: `[B, D]` the image tower's features, which get the gradient; g = unit(images).
      texts: `[B, D]` t of `segment_text`; constants.
      direction: `[D]` V of `common_direction`, over the whole step; a constant.
      omega: weight of what all captions share; 1 = the score itself, 0 = without it.
      where: `[B]` False where there is no image.

    Returns:
      `[B]` float32 loss, 0 where there is no image.

    Limits: R is affine in omega; the length of the features does not matter; features of 0, a kink, have a gradient of
    0. If eta is the same for all captions, omega
    does not change which of them an image prefers.

    Reference: Liu et al. 2025, arXiv:2410.11817, Eq. 6 to 8; the authors' code, loss.py, whose last term is a constant.
    """
    rows = None if where is None else where[:, None]
    g, t = clean(rows, images, jax.lax.stop_gradient(texts))
    reward = jnp.sum(reweighted(t, direction, omega=omega) * unit(g), axis=-1)
    return keep(where, 0.5 * (1.0 - reward) - 0.09 * (1.0 - omega))


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x / |x|; where x is 0, a kink, it is 0 with the gradient 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def segment_text(segments: Float[Array, "B S D"], present: Bool[Array, "B S"]) -> Float[Array, "B D"]:
    """t_i = mean_j unit(h(s_ij)) over the segments that a caption has, not made a unit again; 0 without one.

    Reference: Liu et al. 2025, arXiv:2410.11817, Eq. 3.
    """
    (h,) = clean(present[..., None], segments)
    count = jnp.sum(present.astype(jnp.float32), axis=-1, keepdims=True)
    return jnp.sum(unit(h), axis=-2) / jnp.maximum(count, 1.0)


def common_direction(texts: Float[Array, "N D"], *, where: Bool[Array, "N"] | None = None) -> Float[Array, "D"]:
    """V = unit(mean_i t_i) over the texts of the whole step, all devices and micro-batches; no gradient.

    Reference: Liu et al. 2025, arXiv:2410.11817, Eq. 5; estimated anew in each step, as the authors' code does.
    """
    (t,) = clean(None if where is None else where[:, None], jax.lax.stop_gradient(texts))
    return unit(jnp.sum(t, axis=0))


def reweighted(texts: Float[Array, "B D"], direction: Float[Array, "D"], *, omega: float = 0.3) -> Float[Array, "B D"]:
    """t - (1 - omega) (t . V) V: omega of what a text has along the common direction.

    Reference: Liu et al. 2025, arXiv:2410.11817, Eq. 7.
    """
    t, v = clean(None, texts, jax.lax.stop_gradient(direction))
    return t - (1.0 - omega) * jnp.sum(t * v, axis=-1, keepdims=True) * v


def denscore(
    chosen_scores: Float[Array, "B"],
    rejected_scores: Float[Array, "B"],
    log_scale: Float[Array, ""] | float = 0.0,
    *,
    probability: Float[Array, "B"] | None = None,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Denscore: a preference model of long captions, cross-entropy of two images' segment-averaged scores.

        R = <t, unit(g)>,    L = -log softmax(e^z (R_w, R_l))_w = softplus(-e^z (R_w - R_l))

    Args:
      chosen_scores: `[B]` R of the chosen image with the `segment_text` of the caption.
      rejected_scores: `[B]` of the other one.
      log_scale: z, learnt; CLIP's is log 100 at most.
      probability: `[B]` p of the label, 1/2 for a tie: p L(w over l) + (1 - p) L(l over w); None = 1.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Reference: reconstructed from Liu et al. 2025, arXiv:2410.11817, section 3, and PickScore, Kirstain et al. 2023,
    arXiv:2305.01569, Eq. 2: the training code is not released.
    """
    r_w, r_l = clean(where, chosen_scores, rejected_scores)
    h = jnp.exp(jnp.asarray(log_scale).astype(jnp.float32)) * (r_w - r_l)
    if probability is None:
        return keep(where, softplus(-h))
    (p,) = clean(where, probability)
    return keep(where, p * softplus(-h) + (1.0 - p) * softplus(h))
