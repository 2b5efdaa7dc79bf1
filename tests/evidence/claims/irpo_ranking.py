"""IRPO: graded items of a list against all others rank at least as well as DPO on one pair of it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._linear_lists import adam, direction, items
from evidence.harness import Claim

from jaxpo.losses import dpo, irpo_ranking, ndcg, target_positions

CLAIM = Claim(
    method="irpo_ranking",
    paper="arXiv:2504.15477",
    claim="On lists of 10 with 4 noisily graded items IRPO ranks held-out lists no worse than DPO on the top item and "
    "a random irrelevant one (NDCG@5).",
    baseline="DPO on (top, random irrelevant)",
    measure="held-out NDCG@5, IRPO minus DPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    threshold=0.0,
    min_share=0.6,
)

LISTS, TEST, SIZE, DIMENSIONS, NOISE, STEPS, RATE = 200, 1000, 10, 10, 0.5, 400, 0.05


def relevance(scores):
    """The two best items have grade 2, the next two 1, the others 0."""
    place = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(place < 2, 2, np.where(place < 4, 1, 0)).astype(np.float32)


def irpo(theta, x, y, other):
    r, where = x @ theta, jnp.ones(y.shape, bool)
    one, zero = jnp.ones(y.shape), jnp.zeros(y.shape)
    return jnp.mean(irpo_ranking(r, zero, one, y, target_positions(y, where), where))


def pair(theta, x, y, other):
    """DPO on an item of the highest grade and the given other one."""
    r, rows = x @ theta, jnp.arange(x.shape[0])
    chosen, rejected = r[rows, jnp.argmax(y, axis=1)], r[rows, other]
    zero = jnp.zeros_like(chosen)
    return jnp.mean(dpo(chosen, rejected, zero, zero, beta=1.0))


TRAIN_IRPO, TRAIN_DPO = adam(irpo, STEPS, RATE), adam(pair, STEPS, RATE)


def measure(seed: int, lists: int = LISTS, test: int = TEST) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    u = direction(rng, DIMENSIONS)
    x, held = items(rng, lists, SIZE, DIMENSIONS), items(rng, test, SIZE, DIMENSIONS)
    noisy = x @ u + NOISE * rng.standard_normal((lists, SIZE))
    y, target = relevance(noisy), relevance(held @ u)
    irrelevant = np.argsort(np.where(y == 0, rng.random(y.shape), 2.0), axis=1, kind="stable")[:, 0]
    runs = {
        "method": TRAIN_IRPO(jnp.zeros(DIMENSIONS), x, y, irrelevant),
        "baseline": TRAIN_DPO(jnp.zeros(DIMENSIONS), x, y, irrelevant),
        "DPO on (top, worst)": TRAIN_DPO(jnp.zeros(DIMENSIONS), x, y, np.argmin(noisy, axis=1)),
    }
    where = np.ones(target.shape, bool)
    found = {name: float(np.mean(ndcg(held @ np.asarray(t), target, where, at=5))) for name, t in runs.items()}
    return {**found, "effect": found["method"] - found["baseline"]}
