"""The router of a mixture of experts: normalised sigmoid scores, a bias that steers selection only, and its sums."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxpo.models.language import RouterSums
from jaxpo.models.lfm2.config import LFM2Config

Tree = Any
NORMALISER = 1e-6
"""Added to the sum of the selected scores, as the released models do."""


@struct.dataclass
class Routing:
    """Where each token goes; float32 throughout.

    Attributes:
      logits: `[..., E]`.
      scores: `[..., E]`, their sigmoid.
      experts: `[..., k]`, the selected ones.
      weights: `[..., k]`, what their outputs are multiplied by.
    """

    logits: Float[Array, "... E"]
    scores: Float[Array, "... E"]
    experts: Int[Array, "... k"]
    weights: Float[Array, "... k"]


def route(params: Tree, x: Float[Array, "... D"], config: LFM2Config) -> Routing:
    """Choose k experts for every token (LFM2-8B-A1B; the bias: Wang et al. 2024, arXiv 2408.15664, eq. 3).

        s = sigmoid(x W_g);  S = top-k of (s + b);  w = s[S] / (sum s[S] + 1e-6) * routed_scaling_factor

    The bias b changes which experts are selected and never what they weigh; it carries no gradient. At equal scores
    the expert of the lower index is taken.

    Args:
      params: the feed-forward's subtree, with `gate` and, if the model has one, `expert_bias`.
      x: `[..., D]`, cast to float32.
    """
    gate = params["gate"]["weight"].astype(jnp.float32)
    logits = jnp.matmul(x.astype(jnp.float32), gate, precision=lax.Precision.HIGHEST)
    scores = jax.nn.sigmoid(logits)
    steered = lax.stop_gradient(scores)
    if config.use_expert_bias:
        steered = steered + lax.stop_gradient(params["expert_bias"]["bias"].astype(jnp.float32))
    _, experts = lax.top_k(steered, config.num_experts_per_tok)
    # As a product with a one-hot matrix: the gradient of a gather would be a scatter.
    weights = jnp.sum(jax.nn.one_hot(experts, config.num_experts) * scores[..., None, :], axis=-1)
    if config.norm_topk_prob:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + NORMALISER)
    return Routing(logits, scores, experts, weights * config.routed_scaling_factor)


def router_sums(routing: Routing, real: Bool[Array, "R S"]) -> RouterSums:
    """Sums of each row over the tokens that are real: padding is in none of them.

    The share of an expert has a kink where a token's scores add up to `NORMALISER`, which no trained router reaches.
    """
    keep = real.astype(jnp.float32)
    one_hot = jnp.sum(jax.nn.one_hot(routing.experts, routing.logits.shape[-1]), axis=2)
    share = routing.scores / jnp.maximum(jnp.sum(routing.scores, axis=-1, keepdims=True), NORMALISER)
    z = jnp.square(jax.nn.logsumexp(routing.logits, axis=-1))
    return RouterSums(
        jnp.sum(keep, axis=1),
        jnp.einsum("rse,rs->re", lax.stop_gradient(one_hot), keep),
        jnp.einsum("rse,rs->re", share, keep),
        jnp.sum(z * keep, axis=1),
    )


def stack_layers(sums: list[RouterSums]) -> RouterSums:
    """The sums of L layers side by side: each `[l, R, E]` and `[l, R]`, together `[R, L, E]` and `[R, L]`; tokens are
    the same in all.
    """
    load, share, z = (
        jnp.moveaxis(jnp.concatenate([getattr(s, name) for s in sums]), 0, 1) for name in ("load", "share", "z")
    )
    return RouterSums(sums[0].tokens[0], load, share, z)
