"""PPD (arXiv:2501.06655): Diffusion-DPO of a model that sees who is asking; the reference does not."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.diffusion_dpo import diffusion_dpo


def ppd(
    chosen_errors: Float[Array, "B"],
    rejected_errors: Float[Array, "B"],
    ref_chosen_errors: Float[Array, "B"],
    ref_rejected_errors: Float[Array, "B"],
    weights: Float[Array, "B"] | None = None,
    *,
    beta: float = 2000.0,
    factor: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """PPD: each user's pairs, with the user's embedding given to the trained model alone.

        d = (|e - e(x_w, c, u)|^2 - |e - e_ref(x_w, c)|^2) - (the same of x_l),    L = softplus(f beta w d)

    Only the branch that reads the user is trained; `jaxpo.data.images.users` makes u of a few of a user's pairs.

    Args:
      chosen_errors, rejected_errors: `[B]` of the model with the pair's own user; the two images share time and noise.
      ref_chosen_errors, ref_rejected_errors: `[B]` of the base model without a user.
      weights: `[B]` omega of each pair's time; None = 1.
      beta, factor: as in `diffusion_dpo`; the paper states no beta.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: u = 0, or a branch whose values start at 0, is log 2; one user is `diffusion_dpo`. Two users with opposite
    labels cost a model that does not see them log 2 on average or more.

    Reference: Dang et al. 2025, arXiv:2501.06655, Eq. 5; the 1/2 from the code of Diffusion-DPO.
    """
    errors = (chosen_errors, rejected_errors, ref_chosen_errors, ref_rejected_errors)
    return diffusion_dpo(*errors, weights, beta=beta, factor=factor, where=where)
