"""Training on the tokens at which the policy was undecided (arXiv:2506.01939)."""

from __future__ import annotations

from jaxtyping import Bool, Float

from jaxpo.losses.recurrence import A, namespace, under


def entropy_threshold(entropy: Float[A, "..."], mask: Bool[A, "..."], *, top_entropy_quantile: float) -> Float[A, ""]:
    """The entropy above which the given share of tokens lies, of all tokens of a step.

    Args:
      entropy: `[...]` of the policy at every token, nats; numpy or jax.
      mask: `[...]` True on the tokens that are trained on, of the whole step: of a micro-batch, the filter would depend
        on how the step is cut. The others may hold anything, NaN included.
      top_entropy_quantile: rho in [0, 1], share of the tokens that is kept; 0 keeps those of the highest entropy.

    Returns:
      Scalar of the kind given, between neighbours linearly; NaN without tokens.

    Raises:
      ValueError: a share outside [0, 1].

    Reference: Wang et al. 2025, arXiv:2506.01939; TRL's `top_entropy_quantile`.
    """
    if not 0 <= top_entropy_quantile <= 1:
        raise ValueError(f"top_entropy_quantile {top_entropy_quantile} must lie in [0, 1]")
    xp = namespace(entropy)
    known = xp.where(xp.asarray(mask, dtype=bool), under(mask, entropy), xp.nan)
    return xp.nanquantile(known, 1.0 - top_entropy_quantile)


def top_entropy_mask(entropy: Float[A, "..."], mask: Bool[A, "..."], threshold: Float[A, ""]) -> Bool[A, "..."]:
    """The trained tokens whose entropy is at least the threshold. They filter the terms, not the count of tokens."""
    xp = namespace(entropy)
    return xp.asarray(mask, dtype=bool) & (under(mask, entropy) >= threshold)
