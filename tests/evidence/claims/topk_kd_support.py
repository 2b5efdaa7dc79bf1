"""The mismatch of supports: what either form costs, and where it pushes, when the student is the teacher."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._low_rank_language import TEACHER, K, fit, held_out
from evidence.harness import Claim

from jaxpo.losses import decoupled_topk_kd, topk_record, truncated_topk_kl
from jaxpo.models.lfm2.forward import unembedding

TAUS = (1.0, 2.0, 4.0)

CLAIM = Claim(
    method="decoupled_topk_kd",
    paper="arXiv:2511.23404",
    claim="At student = teacher the truncated tempered KL is above zero and grows with tau; the decoupled loss is 0.",
    baseline="truncated tempered KL at tau = 4",
    measure="least of its value at tau 1 and its growth from 1 to 2 and 2 to 4, minus the decoupled loss's worst",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.05,
    min_share=1.0,
)


@jax.jit
def costs(model, batch):
    """Means over tokens `[taus]` of the naive and the decoupled loss, of a network that is its own teacher."""
    logits = jnp.einsum("rsd,vd->rsv", TEACHER.hidden(model, batch), unembedding(model))[:, :-1]
    record = topk_record(logits, K)
    zero = jnp.zeros_like(record.log_odds)
    naive = [jnp.mean(truncated_topk_kl(logits, record.logps, record.ids, tau=tau)) for tau in TAUS]
    ours = [
        jnp.mean(decoupled_topk_kd(logits, record.logps, zero, record.ids, tau=tau, log_odds=record.log_odds))
        for tau in TAUS
    ]
    return jnp.stack(naive), jnp.stack(ours)


@functools.cache
def own_teacher(seed: int):
    """A network of its own for every seed: a quarter of the teacher's steps."""
    return fit(None, 500 + seed, 300, 4e-3, {})


def measure(seed: int) -> dict[str, float]:
    naive, ours = map(np.asarray, costs(own_teacher(seed), held_out()))
    least = min(naive[0], *np.diff(naive))
    return {
        "method": float(np.abs(ours).max()),
        "baseline": float(naive[-1]),
        "effect": float(least - np.abs(ours).max()),
        **{f"naive, tau {tau:g}": float(x) for tau, x in zip(TAUS, naive, strict=True)},
    }
