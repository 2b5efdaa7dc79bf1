"""RPO: the likelihood term keeps the chosen response likely where DPO sends the mass to unseen ones."""

from __future__ import annotations

import jax.numpy as jnp
from evidence.claims._softmax_policy import features, trainer
from evidence.harness import Claim

from jaxpo.losses import dpo, rpo, unseen_mass

BETA, ETA = 0.1, 1.0  # eta beta = 0.1; the paper's eta of 0.005 does nothing at this scale

CLAIM = Claim(
    method="rpo",
    paper="arXiv:2405.16436",
    claim="The likelihood of the chosen response, which DPO lets collapse, stays up under RPO.",
    baseline="DPO at the same beta",
    measure="final log-probability of the chosen response in nats, RPO minus DPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=2.0,
    min_share=0.8,
)


def _dpo(*logps):
    return dpo(*logps, beta=BETA)


def _rpo(*logps):
    return sum(rpo(*logps, jnp.ones(1), beta=BETA, eta=ETA, variant="sum"))


def measure(seed: int) -> dict[str, float]:
    x = features(seed)
    plain, regular = trainer(_dpo)(x), trainer(_rpo)(x)
    return {
        "method": regular[0],
        "baseline": plain[0],
        "effect": regular[0] - plain[0],
        "unseen, RPO": unseen_mass(regular[:2]),
        "unseen, DPO": unseen_mass(plain[:2]),
    }
