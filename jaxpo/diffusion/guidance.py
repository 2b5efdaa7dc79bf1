"""Guidance: a prediction pushed away from what the model says without the prompt, or from a negative model's."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.diffusion.ddim import Denoise
from jaxpo.diffusion.parameterisation import Images, Times


def guide(positive: Images, negative: Images, scale: float | Float[Array, "..."], *, rescale: float = 0.0) -> Images:
    """e = e_n + w (e_p - e_n), with its deviation partly set back to that of e_p.

        rescaled:  e (phi std(e_p) / std(e) + 1 - phi),    std over the dimensions of an example

    Any parameterisation: at one latent each is a linear function of any other.

    Args:
      positive: `[B, ...]` under the prompt; w = 1 is this one, w = 0 the other.
      negative: without the prompt, or of a negative model. Where std(e) is 0 nothing is rescaled.
      scale: w.
      rescale: phi in [0, 1].

    Reference: Ho and Salimans 2022, arXiv:2207.12598, Eq. 6, with w here their 1 + w; rescaling: Lin et al. 2023,
    arXiv:2305.08891, Eq. 15 and 16.
    """
    guided = negative + scale * (positive - negative)
    if rescale == 0.0:
        return guided
    axes = tuple(range(1, positive.ndim))
    own, found = (jnp.std(x, axis=axes, keepdims=True) for x in (positive, guided))
    ratio = jnp.where(found > 0, own / jnp.where(found > 0, found, 1.0), 1.0)
    return guided * (rescale * ratio + 1.0 - rescale)


def classifier_free(
    denoise: Callable[[Images, Times, Array, Array | None], Images],
    context: Float[Array, "B L D"],
    empty: Float[Array, "B L D"],
    scale: float,
    *,
    mask: Array | None = None,
    empty_mask: Array | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """`denoise(x, t)` with classifier-free guidance: one call on the prompt's and the empty prompt's half.

    Args:
      denoise: `denoise(x, t, context, mask)`.
      context, empty: `[B, L, D]` text states of the captions and of the empty or a negative one.
      scale: w; at 1 the empty half is left out.
      mask, empty_mask: `[B, L]` text positions that count; None = all.

    Reference: Ho and Salimans 2022, arXiv:2207.12598.
    """
    if scale == 1.0:
        return lambda x, t: denoise(x, t, context, mask)
    both = jnp.concatenate([context, empty])
    masks = None
    if mask is not None or empty_mask is not None:
        halves = [jnp.ones(context.shape[:2], bool) if m is None else m for m in (mask, empty_mask)]
        masks = jnp.concatenate(halves)

    def guided(x: Images, t: Times) -> Images:
        twice = denoise(jnp.concatenate([x, x]), jnp.concatenate([t, t]), both, masks)
        told, untold = jnp.split(twice, 2)
        return guide(told, untold, scale, rescale=rescale)

    return guided


def two_networks(positive: Denoise, negative: Denoise, scale: float, *, rescale: float = 0.0) -> Denoise:
    """`denoise(x, t)` guided away from a second network: Diffusion-NPO and Self-NPO.

        e = e_neg(c') + w (e_pos(c) - e_neg(c'))

    The negative network sees the empty or the negative prompt only. Equal networks make it ordinary guidance; one whose
    errors are independent of the other's adds their variance, w^2 + (w - 1)^2 = 2 w^2 - 2 w + 1 of it, which is why the
    negative weights are kept near the positive ones: theta + alpha eta + beta delta, with eta the positive and delta
    the negative model's offset, is `task_arithmetic` of `jaxpo.merge` with the weights (alpha, beta).

    Args:
      scale: w; the papers' omega + 1. At 1 the negative network is not called.

    Reference: Wang et al. 2025, Diffusion-NPO, ICLR; arXiv:2505.11777; the authors' code, whose merge has alpha = 1 -
    merge_weight and beta = 1.
    """
    if scale == 1.0:
        return positive
    return lambda x, t: guide(positive(x, t), negative(x, t), scale, rescale=rescale)
