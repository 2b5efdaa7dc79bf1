"""Binary classifier optimisation (arXiv:2404.04656)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus

BCOState = dict[str, Array]


def bco(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    label: Bool[Array, "B"],
    shift: Float[Array, ""],
    *,
    beta: float = 0.1,
    weight: Float[Array, "B"] | None = None,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """BCO: a binary classifier of thumbs up or down whose logit is the implicit reward minus a shift.

        r = beta (P - R),    L = softplus(-(r - d)) for label 1,    w softplus(r - d) for label 0

    Couples the batch through the shift d, which the caller computes from the whole step (`bco_stats`,
    `update_bco_shift`, `bco_shift`) and which takes no gradient.

    Args:
      logps: `[B]` P, log-probability of the response, summed over its tokens, in nats.
      ref_logps: `[B]` R under the frozen reference.
      label: `[B]` True for a good response.
      shift: d, running mean reward, halfway between the two classes.
      beta: strength of the tie to the reference.
      weight: `[B]` w(x), importance of label-0 rows that matches their prompts to the label-1 rows'
        (p(up|x) / p(down|x), clipped to [0.5, 10] by its authors); None = 1. No effect on label-1 rows.
      where: `[B]` False where there is no row.

    Returns:
      `[B]` float32 loss, 0 where there is no row.

    Limits: d = 0 and w = 1 is plain binary cross-entropy. For any d the two rows of a pair cost more than its DPO loss:
    their sum is log(1 + e^-(r_w - r_l) + e^-(r_w - d) + e^(r_l - d)).

    Reference: Jung et al. 2024, arXiv:2404.04656 (ACL 2025), sections 4 and 5.
    """
    p, r = clean(where, logps, ref_logps)
    good = jnp.asarray(label).astype(bool)
    logit = beta * (p - r) - jax.lax.stop_gradient(jnp.asarray(shift).astype(jnp.float32))
    down = jnp.ones_like(logit) if weight is None else clean(where, weight)[0]
    return keep(where, jnp.where(good, softplus(-logit), down * softplus(logit)))


def init_bco_state() -> BCOState:
    """State before the first step: no reward of either class seen yet."""
    return {"mean": jnp.zeros((2,), jnp.float32), "seen": jnp.zeros((2,), jnp.float32)}


def bco_stats(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    label: Bool[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> dict[str, Array]:
    """Sum and number of each class's rewards (index 0 = bad, 1 = good); adds over parts of a batch. No gradient."""
    p, r = clean(where, jax.lax.stop_gradient(logps), ref_logps)
    good = jnp.asarray(label).astype(bool)
    rows = jnp.ones_like(good) if where is None else where
    members = jnp.stack([rows & ~good, rows & good]).astype(jnp.float32)
    return {"total": jnp.sum(members * (beta * (p - r)), axis=1), "count": jnp.sum(members, axis=1)}


def update_bco_shift(state: BCOState, stats: dict[str, Array], *, momentum: float | None = 0.9) -> BCOState:
    """Running mean of each class's rewards, once per step; a class that the step lacks keeps its value.

    Args:
      state: `mean` and number of rows `seen` of each class.
      stats: of the step (`bco_stats`).
      momentum: of an exponential moving average of the steps' class means, the first of which is taken whole; None
        takes the plain mean over all rows ever seen, which never forgets.
    """
    present = stats["count"] > 0
    batch_mean = stats["total"] / jnp.maximum(stats["count"], 1.0)
    seen = state["seen"] + stats["count"]
    new = stats["count"] / jnp.maximum(seen, 1.0) if momentum is None else 1.0 - momentum
    moved = jnp.where(state["seen"] > 0, state["mean"] + new * (batch_mean - state["mean"]), batch_mean)
    return {"mean": jnp.where(present, moved, state["mean"]), "seen": seen}


def bco_shift(state: BCOState, *, balanced: bool = True) -> Float[Array, ""]:
    """`d = (E_good[r] + E_bad[r]) / 2`: balanced over the classes, whatever their frequencies.

    A class never seen counts as mean reward 0, its value at policy = reference. With balanced False, the classes' means
    count by the rows seen; on plain means that is TRL's single mean over all rewards.
    """
    if balanced:
        return jnp.mean(state["mean"])
    return jnp.sum(state["seen"] * state["mean"]) / jnp.maximum(jnp.sum(state["seen"]), 1.0)
