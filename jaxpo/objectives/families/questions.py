"""Answers of a step, joined by the question that they are to."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch


def questions(batch: Batch) -> Float[Array, ""]:
    """How many different ones the step's answers are to, those of which nothing is learnt among them."""
    here = batch.present & (batch.roles["completion"] >= 0)
    group = batch.per_example["group"]
    same = (group[:, None] == group[None, :]) & here[None, :]
    earlier = jnp.any(jnp.tril(same, -1), axis=-1)
    return jnp.sum((here & ~earlier).astype(jnp.float32))
