"""HAPO: a history of the question asks less of hard questions than a uniform penalty of a tenth of the weight."""

from __future__ import annotations

from evidence.claims._effort_bandit import penalised, plain, train
from evidence.claims.hapo import ours
from evidence.harness import Claim

CLAIM = Claim(
    method="hapo",
    paper="arXiv:2505.11225",
    claim="At weight 0.2 HAPO saves at least 5% of the tokens of GRPO on correctness and keeps more accuracy than GRPO "
    "with a uniform penalty of a tenth of that weight.",
    baseline="GRPO on right - 0.02 L/C",
    measure="accuracy, HAPO minus the penalty; less 1 where fewer than 5% of the tokens are saved",
    seeds=(20, 21, 22, 23, 24),
    threshold=0.005,
)


def measure(seed: int) -> dict[str, float]:
    (accuracy,), (tokens,) = train(seed, ours, (0.2,))
    (uniform,), (short,) = train(seed, penalised, (0.02,))
    (best,), (long,) = train(seed, plain, (0.0,))
    return {
        "method": accuracy,
        "baseline": uniform,
        "effect": accuracy - uniform - (0 if tokens <= 0.95 * long else 1),
        "tokens": tokens,
        "tokens under the penalty": short,
        "accuracy without": best,
        "tokens without": long,
    }
