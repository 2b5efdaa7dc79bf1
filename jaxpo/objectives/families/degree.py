"""SPO's preference-degree features: the head's outputs for a response at every level of removed key content."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch, rows_of
from jaxpo.losses.spo_degree import keep_masks, pool_levels


def level_logits(
    hidden: Float[Array, "R S D"],
    batch: Batch,
    weight: Float[Array, "D K"],
    bias: Float[Array, "K"],
    roles: tuple[str, ...],
) -> dict[str, Array]:
    """Per role `{role}_logits` `[N, K, K]` and `{role}_phrases` `[N]`, the number of key phrases.

    Position s holds the state that has read token s, so a key phrase's positions are those of its own tokens: no shift.
    The head is applied to every position first, `[R, S, K]`; pooling commutes with it and hidden states are not copied.
    """
    levels = weight.shape[1]
    outputs = jnp.moveaxis(hidden.astype(jnp.float32) @ weight, -1, 0)
    found: dict[str, Array] = {}
    for role in roles:
        index = batch.roles[role]
        mask = rows_of(batch.masks["completion"].astype(jnp.float32), index, batch) > 0
        rank = jnp.where(mask, rows_of(batch.per_token["keyword"], index, batch), 0)
        rows = jax.vmap(lambda x, index=index: rows_of(x, index, batch))(outputs)
        kept = keep_masks(rank, mask, levels=levels)
        found[f"{role}_logits"] = pool_levels(jnp.moveaxis(rows, 0, -1), kept) + bias
        found[f"{role}_phrases"] = jnp.max(rank, axis=-1)
    return found
