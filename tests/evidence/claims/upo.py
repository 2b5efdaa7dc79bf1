"""UPO: pairs that are drawn by the certainty of an estimator have fewer wrong labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim

from jaxpo.losses import outcome_reward, upo_information_gain, upo_sampling_weights

DIMENSIONS, CLEAN, PAIRS, MASKS, MU, DROPOUT, NOISE = 10, 150, 4000, 10, 8.0, 0.3, 0.35

CLAIM = Claim(
    method="upo",
    paper="arXiv:2409.11212",
    claim="Of pairs that a noisy reward model labels wrongly where they are close, those that are drawn by the "
    "certainty of an estimator, fitted on 150 clean pairs with dropout, hold fewer wrong labels.",
    baseline="pairs drawn alike",
    measure="share of wrong labels, drawn alike minus drawn by certainty (mu = 8)",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.015,
)


def _estimator(weight, x, label, keep):
    """BCE on both orders under dropout of features: the masks of the steps are averaged."""
    logits = jnp.einsum("tnd,d->tn", keep * x, weight) / (1 - DROPOUT)
    return jnp.mean(jax.vmap(lambda z: outcome_reward(z, label))(logits))


_fit = adam(_estimator, 500, 0.05)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(DIMENSIONS)
    clean = rng.standard_normal((CLEAN, DIMENSIONS))
    right = np.sign(clean @ truth)[:, None] * clean
    both = np.concatenate([right, -right]).astype(np.float32)
    labels = np.repeat(np.float32([1, 0]), CLEAN)
    keep = (rng.random((8, 2 * CLEAN, DIMENSIONS)) > DROPOUT).astype(np.float32)
    weight = np.asarray(_fit(jnp.zeros(DIMENSIONS), both, labels, keep))

    x = rng.standard_normal((PAIRS, DIMENSIONS))
    noisy = x @ truth + NOISE * np.linalg.norm(truth) * rng.standard_normal(PAIRS)
    labelled = np.sign(noisy)[:, None] * x  # in the order that the reward model gives
    wrong = labelled @ truth < 0
    masks = rng.random((MASKS, PAIRS, DIMENSIONS)) > DROPOUT
    logits = np.einsum("tnd,d->nt", masks * labelled, weight) / (1 - DROPOUT)
    gain = upo_information_gain(jnp.asarray(1 / (1 + np.exp(-logits)), jnp.float32))
    weights = np.asarray(upo_sampling_weights(gain, mu=MU), np.float64)
    drawn = rng.choice(PAIRS, PAIRS, p=weights / weights.sum())
    alike, certain = float(wrong.mean()), float(wrong[drawn].mean())
    return {"method": certain, "baseline": alike, "effect": alike - certain}
