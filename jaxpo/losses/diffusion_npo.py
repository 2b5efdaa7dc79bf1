"""Diffusion-NPO (ICLR 2025): a model of what people dislike, for the negative side of guidance."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.diffusion_dpo import diffusion_dpo


def diffusion_npo(
    chosen_errors: Float[Array, "B"],
    rejected_errors: Float[Array, "B"],
    ref_chosen_errors: Float[Array, "B"],
    ref_rejected_errors: Float[Array, "B"],
    *,
    beta: float = 500.0,
    factor: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Diffusion-NPO: `diffusion_dpo` with the two images exchanged.

        d = (e_l - r_l) - (e_w - r_w),    L = softplus(f beta d)

    The model that it trains is only ever asked without the prompt, beside a positive one
    (`jaxpo.diffusion.guidance.two_networks`).

    Args and returns as `diffusion_dpo`; the authors' adapters have f = 1.

    Limits: log 2 at policy = reference; its gradient there is that of `diffusion_dpo`, negated.

    Reference: Wang et al. 2025, "Diffusion-NPO: negative preference optimization for better preference aligned
    generation of diffusion models", ICLR; the authors' code, DPO-DPO-NPO/train_sd15.py.
    """
    swapped = (rejected_errors, chosen_errors, ref_rejected_errors, ref_chosen_errors)
    return diffusion_dpo(*swapped, beta=beta, factor=factor, where=where)
