"""One state of each text of packed rows."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch, read_at
from jaxpo.data.tokens.per_token import KEY
from jaxpo.ops.segments import segment_bounds


def pooled_segments(
    hidden: Float[Array, "R S D"], batch: Batch, pooling: Literal["mean", "cls", "last"]
) -> Float[Array, "R M D"]:
    """The state at BOS, at the last token, or the mean over the tokens that attention sees, in float32; 0 = absent."""
    hidden = hidden.astype(jnp.float32)
    start, length = segment_bounds(batch.segment_ids, batch.slots)
    if pooling != "mean":
        ends = start if pooling == "cls" else start + length - 1
        return read_at(hidden, jnp.where(length > 0, ends, -1))
    inside = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    if KEY in batch.per_token:
        inside &= (batch.per_token[KEY] > 0)[:, None, :]
    weight = inside.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1.0)
    return jnp.einsum("rms,rsd->rmd", weight, hidden) / count
