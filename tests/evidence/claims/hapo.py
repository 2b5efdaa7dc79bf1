"""HAPO: measured against a question's own shortest right answer, answers become shorter and hardly less right."""

from __future__ import annotations

from evidence.claims._effort_bandit import penalised, plain, policy_gradient, train
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import hapo_rewards

CLAIM = Claim(
    method="hapo",
    paper="arXiv:2505.11225",
    claim="At weight 1 HAPO writes at least 5% fewer tokens than GRPO on correctness and loses at most 0.03 of its "
    "accuracy, where a uniform penalty of the same weight loses more than a tenth.",
    baseline="GRPO on correctness alone (its tokens); GRPO on right - L/C (its loss of accuracy)",
    measure="share of tokens saved; less 1 where accuracy falls by more than 0.03 or the penalty's by less than 0.1",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.05,
    not_reproduced=NotReproduced(
        "a question's shortest right answer is soon one of 200 tokens, against which every longer one is at the "
        "floor, and at weight 1 the policy falls to it. hapo_gentle, registered after this run, asks for weight 0.2",
        (-0.1, -0.05),
    ),
)


def ours(logps, right, length, history, weight):
    """GRPO on HAPO's rewards by the history before the step."""
    return policy_gradient(logps, hapo_rewards(length, right, history + 0 * length, weight=weight))


def measure(seed: int) -> dict[str, float]:
    (accuracy,), (tokens,) = train(seed, ours, (1.0,))
    (best,), (long,) = train(seed, plain, (0.0,))
    (uniform,), _ = train(seed, penalised, (1.0,))
    held = best - accuracy <= 0.03 and best - uniform >= 0.1
    return {
        "method": tokens,
        "baseline": long,
        "effect": 1 - tokens / long - (0 if held else 1),
        "accuracy": accuracy,
        "accuracy without": best,
        "accuracy under the penalty": uniform,
    }
