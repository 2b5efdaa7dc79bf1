"""LD-DPO: the tail's weight takes length out of the preference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from evidence.claims._length_toy import START, pairs, train
from evidence.harness import Claim

from jaxpo.losses import dpo, lddpo
from jaxpo.losses.numerics import masked_sum

CLAIM = Claim(
    method="lddpo",
    paper="arXiv:2409.06411",
    claim="Early in training LD-DPO (alpha 0.5) gives shorter and better answers than DPO from length-biased labels.",
    baseline="DPO",
    measure="the smaller of two relative gains over DPO: expected length saved, and quality added",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.01,
)

PAIRS, STEPS, LEARNING_RATE, BETA = 300, 150, 0.05, 0.1


def measure(seed: int, n: int = PAIRS, steps: int = STEPS) -> dict[str, float]:
    """Both losses on the same pairs, from the same policy, for the same number of steps."""
    chosen, rejected, on_w, on_l = pairs(seed, n)
    reference = jax.nn.log_softmax(jnp.asarray(START))

    def rows(logits: jax.Array) -> tuple[jax.Array, ...]:
        policy = jax.nn.log_softmax(logits)
        return policy[chosen], policy[rejected], reference[chosen], reference[rejected]

    def plain(logits: jax.Array) -> jax.Array:
        sums = (masked_sum(x, on) for x, on in zip(rows(logits), (on_w, on_l) * 2, strict=True))
        return dpo(*sums, beta=BETA)

    def desensitised(logits: jax.Array) -> jax.Array:
        return lddpo(*rows(logits), on_w, on_l, beta=BETA, alpha=0.5)

    (length_0, quality_0), (length_1, quality_1) = (
        tuple(float(x[-1]) for x in train(loss, steps, LEARNING_RATE)) for loss in (plain, desensitised)
    )
    saved, added = (length_0 - length_1) / length_0, (quality_1 - quality_0) / quality_0
    return {
        "method": quality_1,
        "baseline": quality_0,
        "effect": min(saved, added),
        "method_length": length_1,
        "baseline_length": length_0,
        "length_saved": saved,
        "quality_added": added,
    }
