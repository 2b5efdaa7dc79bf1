"""RRPO: reward on the phrases that differ leaves shared text alone."""

from __future__ import annotations

import numpy as np
from evidence.claims._token_lm import (
    BAD,
    GOOD,
    at_margin,
    chain,
    decided,
    method,
    pair_batch,
    pretrained,
    side_effects,
    texts,
    train,
)
from evidence.harness import Claim

CLAIM = Claim(
    method="rrpo",
    paper="arXiv:2504.12083",
    claim="At the same preference margin on the words that differ, RRPO changes the shared text less than DPO.",
    baseline="DPO",
    measure="the smaller of two relative reductions on shared tokens at a margin of 2 nats per word: KL, |log-ratio|",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
)

MARGIN, RATE = 2.0, 1e-3


def measure(seed: int, *, pairs: int = 32, steps: int = 60, pretraining: int = 200) -> dict[str, float]:
    """Train both from the same network on the same pairs, which share all but their two slots."""
    rng = np.random.default_rng(seed)
    p = chain(rng)
    reference = pretrained(texts(rng, p, 2048)[0], seed, steps=pretraining)

    def batch() -> tuple[object, np.ndarray]:
        tokens, slots = texts(rng, p, pairs)
        both = np.repeat(slots, 2, axis=0)
        return pair_batch(decided(tokens, slots, GOOD), decided(tokens, slots, BAD), {"phrase": both}), both

    held_out, where = batch()
    batches = [batch()[0] for _ in range(8)]
    watch = side_effects(reference, held_out, where)
    reached = lambda seen: seen[0] >= MARGIN  # noqa: E731
    runs = {
        name: at_margin(
            train(method(name), reference, batches, seed, steps=steps, rate=RATE, watch=watch, done=reached)[1], MARGIN
        )
        for name in ("dpo", "rrpo")
    }
    saved = 1.0 - runs["rrpo"][1:] / runs["dpo"][1:]
    return {
        "method": runs["rrpo"][1],
        "baseline": runs["dpo"][1],
        "effect": saved.min(),
        "kl_saved": saved[0],
        "log_ratio_saved": saved[1],
    }
