"""Diffusion-DPO (arXiv:2311.12908): preferences between images as preferences between denoising errors."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def diffusion_dpo(
    chosen_errors: Float[Array, "B"],
    rejected_errors: Float[Array, "B"],
    ref_chosen_errors: Float[Array, "B"],
    ref_rejected_errors: Float[Array, "B"],
    weights: Float[Array, "B"] | None = None,
    *,
    beta: float = 5000.0,
    factor: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Diffusion-DPO: the chosen image's error falls further below the reference's than the rejected one's.

        d = (e_w - r_w) - (e_l - r_l),    L = -log sigmoid(-f beta w d) = softplus(f beta w d)

    The two images of a pair share the time and the noise. The paper's beta T omega(lambda_t) is the released code's
    f beta with f = 1/2 and a constant weight.

    Args:
      chosen_errors: `[B]` e_w, mean over dimensions of the squared error of the chosen image (`squared_error`).
      rejected_errors: `[B]` e_l of the rejected one.
      ref_chosen_errors: `[B]` r_w under the frozen reference, no gradient passes.
      ref_rejected_errors: `[B]` r_l.
      weights: `[B]` w of each pair's time; None = 1.
      beta: strength of the tie to the reference; large, since the errors are means over dimensions (2000 to 5000).
      factor: f; 0.5 is the authors' code, 1 a widely copied variant with adapters, whose beta of 500 is 1000 here.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: log 2 at policy = reference, with slope f beta w / 2 in e_w; swapping the images negates d.

    Reference: Wallace et al. 2023, arXiv:2311.12908, Eq. 14; the authors' code, train.py.
    """
    e_w, e_l, r_w, r_l = clean(where, chosen_errors, rejected_errors, ref_chosen_errors, ref_rejected_errors)
    d = (e_w - jax.lax.stop_gradient(r_w)) - (e_l - jax.lax.stop_gradient(r_l))
    h = factor * beta * d
    if weights is not None:
        (w,) = clean(where, weights)
        h = h * jax.lax.stop_gradient(w)
    return keep(where, softplus(h))
