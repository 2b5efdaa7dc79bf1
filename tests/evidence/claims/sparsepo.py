"""SparsePO: learned token masks reach a preference with less change elsewhere."""

from __future__ import annotations

import jax
import numpy as np
from evidence.claims._token_lm import (
    BAD,
    GOOD,
    SCORER,
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
from evidence.harness import Claim, NotReproduced

CLAIM = Claim(
    method="sparsepo",
    paper="arXiv:2410.05102",
    claim="At the same preference margin SparsePO has a lower KL on neutral tokens than DPO.",
    baseline="DPO (TDPO1 beside it)",
    measure="relative reduction of the KL per neutral token at a margin of 1.5 nats per sentiment word",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
    not_reproduced=NotReproduced(
        reason="five to nine updates reach the margin, before the masks have learnt which words decide, so their "
        "random start only spreads the change unevenly; in one seed the mask is 0 on the deciding words "
        "and never recovers",
        observed=(-0.8, -0.2),
    ),
)

MARGIN, RATE, BETA = 1.5, 1e-3, 0.8  # beta: the paper's for sentiment


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive's score is above a negative's; ties count half."""
    a, b = score[positive][:, None], score[~positive][None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def measure(seed: int, *, pairs: int = 32, steps: int = 80, pretraining: int = 200) -> dict[str, float]:
    """Train all from the same network; chosen and rejected are different texts, only the slots' words decide."""
    rng = np.random.default_rng(seed)
    p = chain(rng)
    reference = pretrained(texts(rng, p, 2048)[0], seed, steps=pretraining)
    batches = []
    for _ in range(8):
        (a, in_a), (b, in_b) = texts(rng, p, pairs), texts(rng, p, pairs)
        batches.append(pair_batch(decided(a, in_a, GOOD), decided(b, in_b, BAD)))
    tokens, slots = texts(rng, p, pairs)
    held_out, where = pair_batch(decided(tokens, slots, GOOD), decided(tokens, slots, BAD)), np.repeat(slots, 2, axis=0)
    watch = side_effects(reference, held_out, where)
    reached = lambda seen: seen[0] >= MARGIN  # noqa: E731
    sparse = method("sparsepo", beta=BETA)
    runs, params = {}, {}
    for name, m in (("dpo", method("dpo", beta=BETA)), ("tdpo1", method("tdpo1", beta=BETA)), ("sparsepo", sparse)):
        params[name], seen = train(m, reference, batches, seed, steps=steps, rate=RATE, watch=watch, done=reached)
        runs[name] = at_margin(seen, MARGIN)
    weights = jax.jit(lambda x, r, b: sparse.encode_extra(SCORER, x, {"reference": r}, b, None, None))(
        params["sparsepo"], reference, held_out
    )
    mask = np.stack([weights["chosen_reward"], weights["rejected_reward"]], axis=1).reshape(where.shape)[:, 1:]
    effect = 1.0 - runs["sparsepo"][1] / runs["dpo"][1]
    if np.isnan(runs["sparsepo"]).any():
        # The margin was never reached: no KL to compare. Counted as twice the baseline's.
        runs["sparsepo"], effect = 2.0 * runs["dpo"], -1.0
    return {
        "method": runs["sparsepo"][1],
        "baseline": runs["dpo"][1],
        "effect": effect,
        "saved_over_tdpo1": 1.0 - runs["sparsepo"][1] / runs["tdpo1"][1],
        "mask_auc": area_under_curve(mask, where[:, 1:]),
        "sparsity": float(np.mean(mask == 0)),
    }
