"""rDPO: under flipped labels it recovers the clean margins, which DPO and cDPO shrink."""

from __future__ import annotations

import jax.numpy as jnp
from evidence.claims._noisy_pairs import descend, logps, pairs, ranking_accuracy, relative_error
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import dpo, rdpo_robust

FLIPS, PAIRS, STEPS, RATE = 0.3, 2000, 1500, 0.5

CLAIM = Claim(
    method="rdpo_robust",
    paper="arXiv:2403.00409",
    claim="Under 30% flipped labels rDPO recovers the clean margins better than DPO.",
    baseline="DPO",
    measure="relative error of the reward direction and scale, DPO minus rDPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.05,
    min_share=0.8,
    not_reproduced=NotReproduced(
        reason="2000 pairs for 20 parameters are too few: the empirical rDPO loss can be unbounded below; on 3 of the "
        "8 draws its minimiser runs away (errors of 0.85, 1.4 and 8.6 against 0.8 for DPO); on the other 5 the error "
        "is about half of DPO's. rdpo_robust_many_pairs, registered after this run, has ten times the pairs.",
        observed=(-1.5, -0.3),
    ),
)

_train_dpo = descend(lambda theta, x: jnp.mean(dpo(*logps(x, theta), beta=1.0)), STEPS, RATE)
_train_cdpo = descend(lambda theta, x: jnp.mean(dpo(*logps(x, theta), beta=1.0, label_smoothing=FLIPS)), STEPS, RATE)
_train_rdpo = descend(
    lambda theta, x: jnp.mean(rdpo_robust(*logps(x, theta), beta=1.0, label_smoothing=FLIPS)), STEPS, RATE
)


def measure(seed: int) -> dict[str, float]:
    return compare(seed, PAIRS)


def compare(seed: int, count: int) -> dict[str, float]:
    """Relative errors on that many pairs."""
    x, _, truth = pairs(seed, count, (1 - FLIPS,))
    plain, smoothed, robust = _train_dpo(x), _train_cdpo(x), _train_rdpo(x)
    return {
        "method": relative_error(robust, truth),
        "baseline": relative_error(plain, truth),
        "effect": relative_error(plain, truth) - relative_error(robust, truth),
        "cDPO": relative_error(smoothed, truth),
        "ranking accuracy, rDPO": ranking_accuracy(robust, truth, seed),
        "ranking accuracy, DPO": ranking_accuracy(plain, truth, seed),
    }
