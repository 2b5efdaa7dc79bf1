"""LD-DPO: the tail's weight takes length out of the preference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
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
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rows(logits: jax.Array, data: Data) -> tuple[jax.Array, ...]:
    """Per-token log-probs of both responses under the policy and under the reference."""
    chosen, rejected, *_ = data
    policy, reference = (jax.nn.log_softmax(x) for x in (logits, jnp.asarray(START)))
    return policy[chosen], policy[rejected], reference[chosen], reference[rejected]


def plain(logits: jax.Array, data: Data) -> jax.Array:
    """DPO."""
    _, _, on_w, on_l = data
    return dpo(*(masked_sum(x, on) for x, on in zip(rows(logits, data), (on_w, on_l) * 2, strict=True)), beta=BETA)


def desensitised(logits: jax.Array, data: Data) -> jax.Array:
    """LD-DPO."""
    return lddpo(*rows(logits, data), *data[2:], beta=BETA, alpha=0.5)


def measure(seed: int, n: int = PAIRS, steps: int = STEPS) -> dict[str, float]:
    """Both losses on the same pairs, from the same policy, for the same number of steps."""
    data = pairs(seed, n)
    (length_0, quality_0), (length_1, quality_1) = (
        tuple(float(x[-1]) for x in train(loss, data, steps, LEARNING_RATE)) for loss in (plain, desensitised)
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
