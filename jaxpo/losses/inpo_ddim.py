"""DDIM-InPO (arXiv:2503.18454): Diffusion-DPO at the latents that belong to the images, found by DDIM inversion."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.diffusion_dpo import diffusion_dpo


def inpo_ddim(
    chosen_errors: Float[Array, "B"],
    rejected_errors: Float[Array, "B"],
    ref_chosen_errors: Float[Array, "B"],
    ref_rejected_errors: Float[Array, "B"],
    *,
    beta: float = 2000.0,
    factor: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """DDIM-InPO: the logistic of Diffusion-DPO, with latents and noise of an inversion instead of fresh noise.

        tau = (x~_t - a_t x0) / s_t,    s = |tau - e(x~_t)|^2 - |tau - e_ref(x~_t)|^2
        L = -log sigmoid(-f beta (s_w - s_l))

    Args:
      chosen_errors: `[B]` mean over dimensions of |tau - e(x~_t, t)|^2 for the chosen image, the noise that the model
        predicts against `jaxpo.diffusion.parameterisation.implied_noise` of the latent that
        `jaxpo.diffusion.inversion.invert` found. Latents and tau are constants.
      rejected_errors: `[B]` of the rejected one, which has its own latent and tau and the same time.
      ref_chosen_errors: `[B]` of the frozen reference at the same latents and tau.
      ref_rejected_errors: see above.
      beta: 2000 for SD 1.5, 5000 for SDXL.
      factor: f, as in `diffusion_dpo`.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: a network that says the same noise everywhere makes it `diffusion_dpo` at that noise; log 2 at policy =
    reference; equal images give log 2 at any policy.

    Reference: Lu et al. 2025, arXiv:2503.18454; the authors' code, train.py.
    """
    errors = (chosen_errors, rejected_errors, ref_chosen_errors, ref_rejected_errors)
    return diffusion_dpo(*errors, beta=beta, factor=factor, where=where)
