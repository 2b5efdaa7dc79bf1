"""LCPO: with annotators of unlike reliability it learns whom to believe, and ranks better than DPO."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from evidence.claims._noisy_pairs import DIMENSIONS, descend, logps, pairs, ranking_accuracy
from evidence.harness import Claim

from jaxpo.losses import dpo, lcpo, lcpo_margin_dpo, lcpo_stats, update_reliability

RELIABILITY, PAIRS, STEPS, RATE = (0.95, 0.6, 0.2), 600, 1500, 0.5

CLAIM = Claim(
    method="lcpo",
    paper="arXiv:2509.24159",
    claim="With annotators of reliability 0.95, 0.6 and 0.2, LCPO with one eta each ranks better than DPO.",
    baseline="DPO",
    measure="share of fresh pairs in the true order, LCPO minus DPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.1,
    min_share=0.8,
)

_train_dpo = descend(lambda theta, x: jnp.mean(dpo(*logps(x, theta), beta=1.0)), STEPS, RATE)


@partial(jax.jit, static_argnums=2)
def _train_lcpo(x, who, annotators):
    """Algorithm 1 with the whole data as the batch: a gradient step, then the moving average of each eta."""

    def objective(theta, eta):
        terms, posterior = lcpo(lcpo_margin_dpo(*logps(x, theta), beta=1.0), eta[who])
        return jnp.mean(terms), posterior

    def step(_, state):
        theta, eta = state
        grad, posterior = jax.grad(objective, has_aux=True)(theta, eta)
        return theta - RATE * grad, update_reliability(eta, lcpo_stats(posterior, who, annotators))

    return jax.lax.fori_loop(0, STEPS, step, (jnp.zeros(DIMENSIONS), jnp.full(annotators, 0.9)))


def measure(seed: int) -> dict[str, float]:
    x, who, truth = pairs(seed, PAIRS, RELIABILITY)
    plain = ranking_accuracy(_train_dpo(x), truth, seed)
    theta, eta = _train_lcpo(x, who, len(RELIABILITY))
    shared, _ = _train_lcpo(x, jnp.zeros_like(who), 1)
    ours = ranking_accuracy(theta, truth, seed)
    return {
        "method": ours,
        "baseline": plain,
        "effect": ours - plain,
        "one eta for all": ranking_accuracy(shared, truth, seed),
        **{f"eta of {true}": found for true, found in zip(RELIABILITY, eta, strict=True)},
    }
