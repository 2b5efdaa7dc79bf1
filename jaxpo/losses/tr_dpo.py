"""Trust-region updates of the reference model."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

T = TypeVar("T")


def tr_dpo_reference(reference: T, policy: T, step: int | Int[Array, ""], *, alpha: float = 0.6, every: int = 512) -> T:
    """Let the reference follow the policy (TR-DPO): an update that goes with any loss that has a reference.

        theta_ref <- alpha theta + (1 - alpha) theta_ref    after every `every`-th step, else theta_ref

    TRL's `sync_ref_model`, with its names and defaults. Log-probs of a moving reference cannot be computed beforehand.

    Args:
      reference: parameters of the reference, any pytree of arrays.
      policy: those of the policy after the step; no gradient flows through them.
      step: number of optimiser steps taken, counted from 1; may be traced.
      alpha: share of the policy in the new reference; 1 copies it ("hard"), less mixes ("soft").
      every: steps between two updates (tau).

    Returns:
      The new reference, in the reference's types.

    Limits:
      alpha = 1, every = 1: the reference is the policy of the step before. alpha = 0: the reference stands still.

    Reference: Gorbatovski et al. 2024, "Learn Your Reference Model for Real Good Alignment", arXiv:2404.09656, soft and
    hard update of Section 3; TRL's `SyncRefModelCallback`.
    """
    due = jnp.asarray(step) % every == 0

    def follow(old: Array, new: Array) -> Array:
        mixed = alpha * new.astype(jnp.float32) + (1.0 - alpha) * old.astype(jnp.float32)
        return jnp.where(due, mixed.astype(old.dtype), old)

    return jax.tree.map(follow, reference, jax.lax.stop_gradient(policy))
