"""INPO where preferences go round: no response beats all others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims.inpo import LAST, both, preferences
from evidence.harness import Claim

CLAIM = Claim(
    method="inpo",
    paper="arXiv:2407.00617",
    claim="Where no response beats all others, 200 steps of INPO on 512 sampled pairs each leave a smaller duality gap "
    "than 200 regularised best responses to the last iterate.",
    baseline="iterated best responses, ref exp(P pi / tau) / Z",
    measure="mean duality gap of the last 50 iterates, best responses minus INPO",
    seeds=(100, 101, 102, 103, 104, 105, 106, 107),
    threshold=0.2,
)


def cyclic(seed):
    """The first preferences after this seed's of which no row is above 1/2 against all others."""
    table = preferences(seed)
    while np.any(np.sum(np.asarray(table) > 0.5, axis=1) == len(table) - 1):
        seed += 1000
        table = preferences(seed)
    return table


def measure(seed: int) -> dict[str, float]:
    ours, greedy, start = both(jax.random.key(seed), cyclic(seed))
    method, baseline = float(jnp.mean(ours[-LAST:])), float(jnp.mean(greedy[-LAST:]))
    return {"method": method, "baseline": baseline, "effect": baseline - method, "gap of the reference": float(start)}
