"""LN-DPO: log-ratios per token buy quality with fewer tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._length_toy import START, pairs, train
from evidence.harness import Claim

from jaxpo.losses import dpo, lndpo

CLAIM = Claim(
    method="lndpo",
    paper="arXiv:2407.15229",
    claim="At equal quality LN-DPO (beta 2) writes shorter answers than DPO (beta 0.1) from length-biased labels.",
    baseline="DPO",
    measure="log of DPO's expected length over LN-DPO's, each at the first step with the quality that both reach",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
)

PAIRS, STEPS, LEARNING_RATE = 300, 1000, 0.2
SWEEP = (0.1, 1.0, 10.0)
"""Factors on beta: two decades."""
Data = tuple[tuple[jax.Array, jax.Array], float]


def sums(logits: jax.Array, counts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
    """Summed log-probs of both responses under the policy and under the reference, from their token counts."""
    policy, reference = (jax.nn.log_softmax(x) for x in (logits, jnp.asarray(START)))
    return counts[0] @ policy, counts[1] @ policy, counts[0] @ reference, counts[1] @ reference


def plain(logits: jax.Array, data: Data) -> jax.Array:
    """DPO, beta 0.1 times a factor."""
    counts, scale = data
    return dpo(*sums(logits, counts), beta=0.1 * scale)


def normalised(logits: jax.Array, data: Data) -> jax.Array:
    """LN-DPO, beta 2 times a factor."""
    counts, scale = data
    return lndpo(*sums(logits, counts), *(c.sum(axis=1) for c in counts), beta=2.0 * scale)


def measure(seed: int, n: int = PAIRS, steps: int = STEPS) -> dict[str, float]:
    """Whole trajectories of both losses; the quality to match is nine tenths of what the weaker one reaches."""
    chosen, rejected, on_w, on_l = pairs(seed, n)
    counts = tuple(
        np.stack([((tokens == k) & on).sum(-1) for k in range(4)], axis=1).astype(np.float32)
        for tokens, on in ((chosen, on_w), (rejected, on_l))
    )
    runs = {
        name: [train(loss, (counts, scale), steps, LEARNING_RATE) for scale in SWEEP]
        for name, loss in (("baseline", plain), ("method", normalised))
    }
    middle = {name: run[1] for name, run in runs.items()}
    target = 0.9 * min(quality.max() for _, quality in middle.values())
    matched = {name: length[np.argmax(quality >= target)] for name, (length, quality) in middle.items()}
    spread = {f"{name}_spread": float(np.std([q[-1] for _, q in run])) for name, run in runs.items()}
    return {
        "method": float(matched["method"]),
        "baseline": float(matched["baseline"]),
        "effect": float(np.log(matched["baseline"] / matched["method"])),
        "quality": float(target),
        **spread,
    }
