"""SparsePO: token-level DPO under sparse token masks, and MaPO's masks from activations (arXiv:2410.05102)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, keep, softplus

Tree = Any
EPS = 1e-5
"""Of the layer normalisation in front of the mask network."""


def sparsepo(
    chosen_logps: Float[Array, "N T"],
    rejected_logps: Float[Array, "N T2"],
    ref_chosen_logps: Float[Array, "N T"],
    ref_rejected_logps: Float[Array, "N T2"],
    chosen_kl: Float[Array, "N T"],
    rejected_kl: Float[Array, "N T2"],
    chosen_mask: Bool[Array, "N T"],
    rejected_mask: Bool[Array, "N T2"],
    chosen_reward_weights: Float[Array, "N T"],
    rejected_reward_weights: Float[Array, "N T2"],
    chosen_kl_weights: Float[Array, "N T"] | None = None,
    rejected_kl_weights: Float[Array, "N T2"] | None = None,
    *,
    beta: float = 0.1,
    l1_reward: float = 1e-3,
    l1_kl: float = 1e-3,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """SparsePO: every response token has a weight on its log-ratio and one on its KL penalty.

        u = sum_t m^u_t rho_t (chosen) - sum_t m^u_t rho_t (rejected),    rho_t = log pi(y_t) - log pi_ref(y_t)
        d = sum_t m^d_t K_t (rejected) - sum_t m^d_t K_t (chosen)
        L = softplus(-beta (u - d)) + l_u (|m^u_w|_1 + |m^u_l|_1) + l_d (|m^d_w|_1 + |m^d_l|_1)

    Args:
      chosen_logps: `[N, T]` per-token log-probs of the chosen response, in nats.
      rejected_logps: `[N, T2]`.
      ref_chosen_logps: `[N, T]` under the frozen reference.
      ref_rejected_logps: `[N, T2]`.
      chosen_kl: `[N, T]` K_t = KL(reference || policy) over the whole vocabulary at each token, >= 0. The gradient
        passes through it on both sides.
      rejected_kl: `[N, T2]`.
      chosen_mask: `[N, T]` True on response tokens; other entries of all arrays may hold anything.
      rejected_mask: `[N, T2]`.
      chosen_reward_weights: `[N, T]` m^u >= 0, from `mask_network` or `mapo_mask`; may exceed 1.
      rejected_reward_weights: `[N, T2]`.
      chosen_kl_weights: `[N, T]` m^d; None = the same weights serve both (common mask).
      rejected_kl_weights: `[N, T2]`; None as above.
      beta: strength of the tie to the reference (0.1 dialogue; 0.8 sentiment and summaries).
      l1_reward: l_u, weight of the L1 norm of m^u over response tokens.
      l1_kl: l_d. Of a common mask both are halved, because the same mask is counted twice.
      where: `[N]` False where there is no pair.

    Returns:
      `[N]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: weights 1 without L1 give TDPO1; m^u = 1, m^d = 0 gives DPO; weights 0 give log 2 and no gradient in the
    policy. A common mask with l_u = l_d = l equals independent equal masks with l_u = l, l_d = 0.

    Reference: Christopoulou et al. 2024, arXiv:2410.05102; halving and the path through both KLs as in its code.
    """
    if (chosen_kl_weights is None) != (rejected_kl_weights is None):
        raise ValueError("give kl weights of both sides, or of neither (common mask)")
    if chosen_kl_weights is None or rejected_kl_weights is None:
        chosen_kl_weights, rejected_kl_weights = chosen_reward_weights, rejected_reward_weights
        l1_reward, l1_kl = l1_reward / 2, l1_kl / 2
    where = both(where, jnp.any(chosen_mask, axis=-1) | jnp.any(rejected_mask, axis=-1))
    on_w, on_l = chosen_mask & where[:, None], rejected_mask & where[:, None]
    mu_w, md_w, p_w, r_w, k_w = _on(
        on_w, chosen_reward_weights, chosen_kl_weights, chosen_logps, ref_chosen_logps, chosen_kl
    )
    mu_l, md_l, p_l, r_l, k_l = _on(
        on_l, rejected_reward_weights, rejected_kl_weights, rejected_logps, ref_rejected_logps, rejected_kl
    )
    u = _total(mu_w * (p_w - r_w)) - _total(mu_l * (p_l - r_l))
    d = _total(md_l * k_l) - _total(md_w * k_w)
    # The weights are not negative: their sum is their L1 norm.
    sparsity = l1_reward * (_total(mu_w) + _total(mu_l)) + l1_kl * (_total(md_w) + _total(md_l))
    return keep(where, softplus(-beta * (u - d)) + sparsity)


def mask_scores(network: Tree, layer: int, hidden: Float[Array, "*S D"]) -> Float[Array, "*S"]:
    """One layer's part of the mask network: `z_l = relu(w_l . LN(h_l) + b_l)`, in float32.

    Args:
      network: one network of `jaxpo.models.heads.mask_table`; without "norm" the state enters as it is, with
        "hidden" a linear map to 200 units stands before w_l.
      layer: l, counted from 0 among the layers the network has.
      hidden: `[..., D]` hidden states of that layer; no gradient passes to them.
    """
    h = jax.lax.stop_gradient(hidden).astype(jnp.float32)
    if "norm" in network:
        h = h - jnp.mean(h, axis=-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + EPS)
        h = h * network["norm"]["weight"] + network["norm"]["bias"]
    head = network["layers"][str(layer)]
    if "hidden" in head:
        h = h @ head["hidden"]["weight"] + head["hidden"]["bias"]
    return jax.nn.relu((h @ head["weight"] + head["bias"])[..., 0])


def mix_scores(network: Tree, scores: Float[Array, "L *S"]) -> Float[Array, "*S"]:
    """`m = relu(sum_l c_l z_l)`; a network of one layer without a mixer returns its z."""
    if "mixer" not in network:
        return scores[0]
    return jax.nn.relu(jnp.tensordot(network["mixer"]["weight"], scores, axes=1))


def mask_network(network: Tree, hidden: Sequence[Float[Array, "*S D"]]) -> Float[Array, "*S"]:
    """SparsePO's mask from the reference's hidden states, without dropout.

        z_l = relu(w_l . LN(h_l) + b_l),    m = relu(sum_l c_l z_l)

    Args:
      network: parameters, see `jaxpo.models.heads.mask_table`.
      hidden: one `[..., D]` per layer the network has: the states that predict the token the mask is for.

    Returns:
      `[...]` m >= 0, float32; exactly 0 wherever the sum is not positive, and there without a gradient. Kinks at a z_l
      or a sum of 0: the derivative there is 0.

    Reference: arXiv:2410.05102; the released code's SimpleMaskAllLayers.
    """
    return mix_scores(network, jnp.stack([mask_scores(network, i, h) for i, h in enumerate(hidden)]))


def dropout(x: Float[Array, "..."], uniform: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zero where the uniform draw is below the rate, and scale the rest to keep the mean."""
    return jnp.where(uniform < rate, 0.0, x / (1.0 - rate))


def mapo_map(activation: Float[Array, "N T"], mask: Bool[Array, "N T"]) -> Float[Array, "N T"]:
    """MaPO's map of one activation, averaged over its features: min-max over the response's tokens, without gradient.

    The paper z-normalises first, which min-max undoes: the map ignores positive affine changes of the activation.

    Args:
      activation: `[N, T]`, the mean over features at the position that predicts each token.
      mask: `[N, T]` True on response tokens.

    Returns:
      `[N, T]` in [0, 1], 0 off the response. Where the activation does not vary (one token, a constant) the released
      code divides 0 by 0; here such a response gets 1 throughout.
    """
    x = jax.lax.stop_gradient(jnp.where(mask, jnp.asarray(activation).astype(jnp.float32), 0.0))
    low = jnp.min(jnp.where(mask, x, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(mask, x, -jnp.inf), axis=-1, keepdims=True)
    varies = high > low
    scaled = (x - low) / jnp.where(varies, high - low, 1.0)
    return jnp.where(mask, jnp.where(varies, scaled, 1.0), 0.0)


def mapo_mask(families: Mapping[str, Sequence[Float[Array, "N T"]]], mask: Bool[Array, "N T"]) -> Float[Array, "N T"]:
    """MaPO's mask: the maps of each family's activations averaged, then the families' averages averaged.

    Args:
      families: name of a family (feed-forward, mixer, residual stream) -> its activations, see `mapo_map`.
      mask: `[N, T]` True on response tokens.

    Reference: arXiv:2410.05102, MaPO; the released code's activation mapping "zn_rescale".
    """
    averages = [jnp.mean(jnp.stack([mapo_map(x, mask) for x in maps]), axis=0) for maps in families.values()]
    return jnp.mean(jnp.stack(averages), axis=0)


def _on(mask: Bool[Array, "N T"], *arrays: Array) -> list[Array]:
    """Float32, 0 off the mask, so that nothing that lies there reaches a product or its gradient."""
    return [jnp.where(mask, jnp.asarray(x).astype(jnp.float32), 0.0) for x in arrays]


def _total(x: Float[Array, "N T"]) -> Float[Array, "N"]:
    return jnp.sum(x, axis=-1)
