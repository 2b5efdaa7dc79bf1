"""DPO hardly ever corrects a pair that its reference ranks wrongly, and the difficulty c says which ones it does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.harness import Claim

from jaxpo.losses import difficulty, dpo_gamma, ranking_accuracy

# Log-ratios of the reference are of the size that sums over some hundred tokens have, and blind to the label.
BETA, SPREAD = 0.1, 100.0
TRAIN, HELD_OUT, DIMENSIONS, RELEVANT, NORM = 400, 1000, 40, 8, 3.0
STEPS, RATE = 400, 2.0

CLAIM = Claim(
    method="dpo_gamma",
    paper="arXiv:2405.19534",
    claim="At DPO's lowest held-out loss few wrongly ranked pairs are flipped, and the difficulty c tells which.",
    baseline="chance",
    measure="area under the ROC curve of -c for 'flipped' among the pairs that the reference ranks wrongly, minus 0.5",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.4,
    min_share=1.0,
)


def _pairs(seed):
    """Feature differences in the labelled order and log-ratios of the reference, for training and held-out pairs."""
    rng = np.random.default_rng(seed)
    n = TRAIN + HELD_OUT
    truth = rng.standard_normal(RELEVANT)
    x = rng.standard_normal((n, DIMENSIONS))
    margin = NORM * x[:, :RELEVANT] @ truth / np.linalg.norm(truth)
    sign = np.where(rng.random(n) < 1 / (1 + np.exp(-margin)), 1.0, -1.0)
    ratio = SPREAD * rng.standard_normal(n)
    x, ratio = jnp.asarray(x * sign[:, None], jnp.float32), jnp.asarray(ratio, jnp.float32)
    return (x[:TRAIN], ratio[:TRAIN]), (x[TRAIN:], ratio[TRAIN:])


def _logps(theta, x, ratio):
    """`P_w, P_l, R_w, R_l`: the policy adds theta x to the reference's log-ratio."""
    zero = jnp.zeros(x.shape[0])
    return ratio + x @ theta, zero, ratio, zero


@jax.jit
def _train(train, held_out, gamma):
    """Gradient descent; the parameters of the step with the lowest held-out loss."""

    def loss(theta, data):
        return jnp.mean(dpo_gamma(*_logps(theta, *data), beta=BETA, gamma=gamma))

    def step(state, _):
        theta, best, lowest = state
        now = loss(theta, held_out)
        best = jnp.where(now < lowest, theta, best)
        return (theta - RATE * jax.grad(loss)(theta, train), best, jnp.minimum(now, lowest)), None

    start = jnp.zeros(DIMENSIONS)
    (_, best, lowest), _ = jax.lax.scan(step, (start, start, jnp.inf), None, length=STEPS)
    return best, lowest


def _auc(score, positive):
    """Probability that a positive scores above a negative."""
    above = score[positive][:, None] > score[~positive][None, :]
    return float(above.mean())


def measure(seed: int) -> dict[str, float]:
    train, held_out = _pairs(seed)
    c = np.asarray(difficulty(train[1], jnp.zeros(TRAIN)))
    wrong = c > 0
    flipped = {}
    for gamma in (1.0, 0.0):
        theta, _ = _train(train, held_out, gamma)
        p_w, p_l, _, _ = _logps(theta, *train)
        flipped[gamma] = np.asarray(ranking_accuracy(p_w, p_l))[wrong] > 0
    auc = _auc(-c[wrong], flipped[1.0])
    return {
        "method": auc,
        "baseline": 0.5,
        "effect": auc - 0.5,
        "flipped, DPO": flipped[1.0].mean(),
        "flipped, gamma = 0": flipped[0.0].mean(),
        "mean c of the flipped": c[wrong][flipped[1.0]].mean(),
        "mean c of the others": c[wrong][~flipped[1.0]].mean(),
    }
