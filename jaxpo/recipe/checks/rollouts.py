"""The checks of an online stage's rewards that depend on its method. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.objectives.methods.rollouts import FromAnswers
from jaxpo.recipe.checks.online import answering_of


def rollout_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """Rewards that the method cannot be given as the stage would make them."""
    method, name = stage.loss, stage.name
    if stage.dynamic_sampling and stage.num_generations < 2:
        yield (
            f"{name}.dynamic_sampling: the one answer of a group is always alike, so that every prompt would be "
            "replaced; leave it out, or give num_generations at least 2."
        )
    if tells_right_from_wrong(method) and not any(getattr(r, "VERIFIES", False) for r in stage.reward_funcs):
        yield (
            f"{name}.reward_funcs: {method.INFO.name} tells right answers from wrong ones, and no reward says which "
            "are right; give one that does, such as VerifierReward() or MathReward()."
        )
    if isinstance(method, FromAnswers):
        yield from (f"{name}.{problem}" for problem in method.problems_in(stage))
    if stage.multi_objective_aggregation == "sum_then_normalize" or method is None:
        return
    if answering_of(stage).examples != "each":
        yield (
            f"{name}.multi_objective_aggregation: {method.INFO.name} orders answers by the sum of their rewards and "
            'normalises nothing; leave it out ("sum_then_normalize").'
        )
    elif getattr(method, "PAYS", False):
        yield (
            f"{name}.multi_objective_aggregation: {method.INFO.name} pays by the sum of the rewards; leave it out "
            '("sum_then_normalize").'
        )
    elif getattr(method, "penalty", None) is not None or getattr(method, "BY_TOKEN", False):
        yield (
            f"{name}.multi_objective_aggregation: {method.INFO.name} takes the sum of the rewards as it is "
            'and makes advantages of it itself; leave it out ("sum_then_normalize"), or the KL out of the rewards.'
        )


def tells_right_from_wrong(method: Any) -> bool:
    """Whether it asks which answers are right, besides how much their rewards are."""
    return bool(getattr(method, "PAYS", False) or getattr(method, "BINARY", False))
