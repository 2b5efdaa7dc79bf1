"""What keeps the experts of a mixture equally busy: two losses, and the update of the routing bias."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def load_balance(
    load: Float[Array, "... E"], share: Float[Array, "... E"], tokens: Float[Array, ""], *, top_k: int
) -> Float[Array, "..."]:
    """Auxiliary loss of a router from sums over its tokens (Fedus et al. 2021, arXiv 2101.03961, eq. 4-6).

        L = E sum_e f_e P_e,   f_e = load_e / (k n),   P_e = share_e / n

    It is 1 when every expert has the same load, whatever the probabilities. It couples tokens: f and P are means over
    all of them, so the sums have to be those of the whole batch.

    Args:
      load: `[..., E]` number of tokens that chose each expert; carries no gradient.
      share: `[..., E]` sum over the tokens of the probability of each expert (for a sigmoid router its score divided by
        the sum of the token's scores, as in DeepSeek-V3, arXiv 2412.19437, eq. 19).
      tokens: n; 0 gives 0.
      top_k: k, experts per token. (k = 1 is the paper's.)

    Returns:
      `[...]`, one per layer.
    """
    n = jnp.maximum(tokens, 1.0)
    return load.shape[-1] * jnp.sum(load / (top_k * n) * (share / n), axis=-1)


def router_z(z: Float[Array, "..."], tokens: Float[Array, ""]) -> Float[Array, "..."]:
    """Keeps a router's logits small (Zoph et al. 2022, arXiv 2202.08906, eq. 5).

        L = 1/n sum_t (log sum_e exp(logit_te))^2

    Args:
      z: `[...]` sum of the squares over tokens.
      tokens: n; 0 gives 0.
    """
    return z / jnp.maximum(tokens, 1.0)


def updated_bias(bias: Float[Array, "E"], load: Float[Array, "E"], *, rate: float) -> Float[Array, "E"]:
    """Routing bias after a step (Wang et al. 2024, arXiv 2408.15664, algorithm 1).

        b_e <- b_e + rate * sign(mean(load) - load_e)

    At equal load, and without any, it stays.

    Args:
      bias: added to the scores for the selection alone.
      load: tokens that chose each expert, over the whole batch.
    """
    return bias + rate * jnp.sign(jnp.mean(load) - load)
