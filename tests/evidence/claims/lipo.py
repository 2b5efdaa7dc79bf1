"""LiPO-lambda: label values keep the one good response on top where near-ties outvote it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._linear_lists import adam, direction, items
from evidence.harness import Claim

from jaxpo import losses

CLAIM = Claim(
    method="lipo",
    paper="arXiv:2402.01878",
    claim="On lists with one clearly good response among near-ties, LiPO-lambda ranks it first more often than the "
    "pairwise logistic loss, which counts all pairs alike.",
    baseline="pair_logistic",
    measure="held-out top-1 accuracy, lambda minus pair_logistic",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.3,
)

TRAIN, TEST, SIZE, DIMENSIONS, STEPS, RATE = 200, 1000, 8, 5, 400, 0.05


def lists(rng, count, u):
    """Features, labels: the best along u gets 0.9; the rest lie within 0.07 of 0.1, the *lower* along u the higher."""
    x = items(rng, count, SIZE, DIMENSIONS)
    place = np.argsort(np.argsort(-(x @ u), axis=1, kind="stable"), axis=1, kind="stable")  # 0 = the best
    labels = np.where(place == 0, 0.9, 0.1 + 0.01 * place)
    return x, labels.astype(np.float32)


def trainer(name):
    loss = getattr(losses, name)

    def objective(theta, x, labels):
        scores = losses.implicit_scores(x @ theta, jnp.zeros(labels.shape), jnp.ones(labels.shape, bool), beta=1.0)
        return jnp.mean(loss(scores, labels, jnp.ones(labels.shape, bool)))

    return adam(objective, STEPS, RATE)


TRAINERS = {name: trainer(name) for name in ("lambda_rank", "pair_logistic", "list_softmax", "list_mle")}


def measure(seed: int, train: int = TRAIN, test: int = TEST) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    u = direction(rng, DIMENSIONS)
    (x, labels), (held, target) = lists(rng, train, u), lists(rng, test, u)
    top1 = {}
    for name, run in TRAINERS.items():
        theta = np.asarray(run(jnp.zeros(DIMENSIONS), x, labels))
        top1[name] = float(np.mean(np.argmax(held @ theta, axis=1) == np.argmax(target, axis=1)))
    return {
        "method": top1["lambda_rank"],
        "baseline": top1["pair_logistic"],
        "effect": top1["lambda_rank"] - top1["pair_logistic"],
        "softmax": top1["list_softmax"],
        "list_mle": top1["list_mle"],
    }
