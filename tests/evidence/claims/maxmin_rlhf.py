"""MaxMin-RLHF: EM over annotators finds a minority that one reward model overrules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim

from jaxpo.losses import bradley_terry, maxmin_responsibilities, maxmin_rlhf

ANNOTATORS, MINORITY, PAIRS, DIMENSIONS, ROUNDS, STEPS = 12, 3, 40, 2, 10, 200

CLAIM = Claim(
    method="maxmin_rlhf",
    paper="arXiv:2402.08925",
    claim="With 12 annotators, three of whom are opposed on one of two features, the reward models that EM finds order "
    "the minority's pairs better than one reward model of all.",
    baseline="one Bradley-Terry model of all annotators",
    measure="accuracy on held-out pairs of the minority, EM minus one model",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.15,
    min_share=1.0,
)

DIRECTIONS = np.asarray([[1.5, 3.0], [1.5, -3.0]])


def pairs(rng, group, n):
    """Chosen less rejected `[n, 2]` of pairs that somebody of a group labels by Bradley-Terry."""
    x = rng.standard_normal((n, DIMENSIONS))
    first = rng.random(n) < 1 / (1 + np.exp(-x @ DIRECTIONS[group]))
    return np.where(first[:, None], x, -x)


def _m_step(weights, x, gamma):
    margins = x @ weights
    terms = maxmin_rlhf(margins, jnp.zeros_like(margins), gamma)
    return jnp.sum(jnp.sum(terms, axis=0) / jnp.maximum(jnp.sum(gamma, axis=0), 1.0))


_train = adam(_m_step, STEPS, 0.05)
_single = adam(lambda w, x: jnp.mean(bradley_terry(x @ w, jnp.zeros(len(x)))), ROUNDS * STEPS, 0.05)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(ANNOTATORS) < MINORITY).astype(int)
    x = jnp.asarray(np.concatenate([pairs(rng, g, PAIRS) for g in group]), jnp.float32)
    who = np.repeat(np.arange(ANNOTATORS), PAIRS)
    gamma = np.eye(2)[np.arange(ANNOTATORS) % 2]
    weights = jnp.asarray(0.1 * rng.standard_normal((DIMENSIONS, 2)), jnp.float32)
    for _ in range(ROUNDS):
        weights = _train(weights, x, jnp.asarray(gamma[who], jnp.float32))
        likelihood = np.zeros((ANNOTATORS, 2))
        np.add.at(likelihood, who, np.asarray(jax.nn.log_sigmoid(x @ weights)))
        gamma = np.asarray(maxmin_responsibilities(jnp.asarray(likelihood)))
    found = gamma.argmax(1)
    own = int(np.bincount(found[group == 1], minlength=2).argmax())
    held = jnp.asarray(pairs(rng, 1, 4000), jnp.float32)
    one = _single(jnp.zeros(DIMENSIONS), x)
    ours, plain = (float(jnp.mean(held @ w > 0)) for w in (weights[:, own], one))
    exact = max(np.mean(found == group), np.mean(found != group))
    return {"method": ours, "baseline": plain, "effect": ours - plain, "annotators in their groups": float(exact)}
