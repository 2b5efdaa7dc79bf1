"""One class of several for each labelled token of a text, such as the kind of name that a word belongs to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.losses.numerics import clean, keep


def token_classification(
    logits: Float[Array, "N T C"],
    label: Int[Array, "N T"],
    where: Bool[Array, "N T"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "N"]:
    """Cross-entropy of every labelled token's class.

        L = - sum_t sum_c q_tc log softmax(z_t)_c,    q_tc = (1 - eps) [c = y_t] + eps / C

    Args:
      logits: `[N, T, C]` z.
      label: `[N, T]` y, from 0.
      where: `[N, T]` False where a token has no label.
      label_smoothing: eps in [0, 1), the share of the target that is spread over all classes.

    Returns:
      `[N]` float32, summed over the labelled tokens; 0 where there is none.

    Limits: log C for equal logits; without smoothing the gradient is softmax(z) - onehot(y), and of two classes this is
    the logistic loss of z_1 - z_0; a shift of a token's logits changes nothing.

    Reference: Devlin et al. 2018, arXiv:1810.04805, section 5.3 (a softmax over the state of a word's first piece);
    smoothing Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """
    (z,) = clean(where[..., None], logits)
    log_p = jax.nn.log_softmax(z, axis=-1)
    index = jnp.where(where, label, 0)[..., None]
    right = jnp.take_along_axis(log_p, index, axis=-1)[..., 0]
    spread = jnp.mean(log_p, axis=-1)
    return jnp.sum(keep(where, -(1.0 - label_smoothing) * right - label_smoothing * spread), axis=-1)
