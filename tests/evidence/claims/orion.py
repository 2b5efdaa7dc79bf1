"""ORION's SLPO: a small bonus for the shorter right answers of a group saves many tokens."""

from __future__ import annotations

from evidence.claims._effort_bandit import plain, policy_gradient, train
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import orion_rewards

CLAIM = Claim(
    method="orion",
    paper="arXiv:2511.22891",
    claim="At alpha 0.1 SLPO under GRPO writes at least a quarter fewer tokens than GRPO on correctness and loses at "
    "most 0.07 of its accuracy.",
    baseline="GRPO on correctness alone",
    measure="share of tokens saved; less 1 where accuracy falls by more than 0.07",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.25,
    not_reproduced=NotReproduced(
        "the tokens are saved (28 to 43%), but in one draw of five 0.077 of the accuracy is lost where 0.07 was "
        "allowed. orion_bound, registered after this run, allows 0.1 on other draws",
        (0.05, 0.24),
    ),
)


def ours(logps, right, length, history, alpha):
    """GRPO on SLPO's rewards."""
    return policy_gradient(logps, orion_rewards(length, right, alpha=alpha))


def measure(seed: int) -> dict[str, float]:
    (accuracy,), (tokens,) = train(seed, ours, (0.1,))
    (best,), (long,) = train(seed, plain, (0.0,))
    return {
        "method": tokens,
        "baseline": long,
        "effect": 1 - tokens / long - (0 if best - accuracy <= 0.07 else 1),
        "accuracy": accuracy,
        "accuracy without": best,
    }
