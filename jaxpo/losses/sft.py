"""Maximum likelihood of the chosen response."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def sft(chosen_logps: Float[Array, "B"], *, where: Bool[Array, "B"] | None = None) -> Float[Array, "B"]:
    """Fine-tuning on the chosen responses alone: the yardstick of every preference loss.

        L = -P_w

    A step minimises `sum(L) / chosen tokens`, counted over the whole step.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 negative log-likelihood, 0 where there is no pair.

    Limits: CPO's likelihood term at alpha = 1; ORPO at beta = 0.

    Reference: maximum likelihood; TRL's `loss_type="sft"`.
    """
    return keep(where, -clean(where, chosen_logps)[0])
