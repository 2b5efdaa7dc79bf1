"""Diffusion-KTO (arXiv:2404.04465): single images labelled good or bad."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.kto import kto, kto_kl
from jaxpo.losses.numerics import clean


def diffusion_kto(
    errors: Float[Array, "B"],
    ref_errors: Float[Array, "B"],
    label: Bool[Array, "B"],
    kl: Float[Array, ""] | float,
    *,
    beta: float = 5000.0,
    factor: float = 0.5,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Diffusion-KTO: KTO whose log-ratio is how far an image's denoising error lies below the reference's.

        u = f beta (r - e - z),    L = lambda_D (1 - sigmoid(u)) for label 1,    lambda_U sigmoid(u) for label 0

    Args:
      errors: `[B]` e of `squared_error`, one time and one noise per image.
      ref_errors: `[B]` r under the frozen reference.
      label: `[B]` True for a good image.
      kl: z >= 0 of the whole step, `diffusion_kto_kl`; no gradient passes.
      beta, factor: as in `diffusion_dpo`.
      desirable_weight: lambda_D.
      undesirable_weight: lambda_U.
      where: `[B]` False where there is no image.

    Returns:
      `[B]` float32 loss, 0 where there is no image.

    Limits: lambda / 2 at r - e = z; a good and a bad image at z = 0 add up to 1 at policy = reference.

    Reference: Li et al. 2024, arXiv:2404.04465, Eq. 9 with Kahneman and Tversky's utility; the logit as in the code of
    Diffusion-DPO.
    """
    e, r = clean(where, errors, jax.lax.stop_gradient(ref_errors))
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto(-e, -r, label, kl, beta=factor * beta, where=where, **weights)


def diffusion_kto_kl(
    errors: Float[Array, "B"], ref_errors: Float[Array, "B"], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, ""]:
    """`z = sg(max(0, mean of r - e))` over the images of the whole step; 0 when there is none.

    Reference: Li et al. 2024, arXiv:2404.04465, section 4.2.
    """
    e, r = clean(where, errors, ref_errors)
    return kto_kl(-e, -r, where=where)
