"""Statistical rejection sampling optimisation (arXiv:2309.06657): the losses. The sampler is `jaxpo.construct.rso`."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.dpo import dpo
from jaxpo.losses.hinge import hinge


def rso(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    gamma: float = 0.05,
    margin: bool = False,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """RSO's two losses on pairs that were drawn from the estimated optimal policy.

        d = gamma ((P_w - R_w) - (P_l - R_l)),    L = softplus(-d) (sigmoid-norm)  or  max(0, 1 - d) (hinge-norm)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w under the SFT policy, which also drew the candidates.
      ref_rejected_logps: `[B]` R_l.
      gamma: strength of the tie to the SFT policy; not the sampler's beta.
      margin: hinge-norm instead of sigmoid-norm.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: sigmoid-norm is `dpo`, hinge-norm is `hinge`, both at beta = gamma, its kink at d = 1 included.

    Reference: Liu et al. 2023, arXiv:2309.06657, sigmoid-norm and hinge-norm.
    """
    loss = hinge if margin else dpo
    return loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=gamma, where=where)
