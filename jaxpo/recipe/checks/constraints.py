"""The checks of online stages with several rewards at once: thresholds, groups of users. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Online, Run
from jaxpo.errors import did_you_mean
from jaxpo.online.rewards.names import reward_names
from jaxpo.recipe.checks.rollouts import tells_right_from_wrong


def constraint_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """Every threshold is of a reward that is there; a search has held-out prompts to be judged by."""
    yield from _maxmin_problems(stage)
    method, name = stage.loss, stage.name
    held = getattr(method, "streams", ("",))[1:]
    if not held:
        return
    rewards = reward_names(stage.reward_funcs)
    for reward in held:
        if reward not in rewards:
            yield (
                f"{name}.loss.thresholds: there is no reward {reward!r} ({', '.join(rewards) or 'none'})."
                f"{did_you_mean(reward, rewards)}"
            )
    if stage.reward_weights:
        yield (
            f"{name}.reward_weights: {method.INFO.name} weighs rewards by its multipliers, and rewards without a "
            "threshold are only measured; leave it out."
        )
    if (search := method.threshold_search) is None:
        return
    if search.score and search.score not in rewards:
        yield (
            f"{name}.loss.threshold_search.score: there is no reward {search.score!r} ({', '.join(rewards)})."
            f"{did_you_mean(search.score, rewards)}"
        )
    if stage.max_staleness:
        yield f"{name}.max_staleness: a search asks held-out prompts between generations, not beside them; give 0."
    if not stage.data.eval:
        yield (
            f"{name}.data.eval: thresholds are searched by {search.score!r} of answers to held-out prompts; give some."
        )


def _maxmin_problems(stage: Online) -> Iterator[str]:
    """Groups have rewards of their own, and nothing else is made of these."""
    how, where = stage.maxmin, f"{stage.name}.maxmin"
    if how is None:
        return
    if not how.learning_rate > 0:
        yield f"{where}.learning_rate: {how.learning_rate} must be above 0."
    if set(stage.reward_weights) - {0.0, 1.0} or (stage.reward_weights and not any(stage.reward_weights)):
        yield (
            f"{stage.name}.reward_weights: {stage.reward_weights}, but groups count by how they fare; give 1 for the "
            "reward of a group, and 0 for one that is only measured."
        )
    if stage.multi_objective_aggregation != "sum_then_normalize":
        yield f"{stage.name}.multi_objective_aggregation: groups' rewards are mixed by {where}; leave it out."
    if stage.dynamic_sampling:
        yield f"{stage.name}.dynamic_sampling: which group counts is known when all answers are there; leave it out."
    if len(getattr(stage.loss, "streams", ("",))) > 1:
        yield f"{where}: {stage.loss.INFO.name} holds every reward at a threshold; leave one of the two out."
    if tells_right_from_wrong(stage.loss):
        yield (
            f"{where}: {stage.loss.INFO.name} tells right answers from wrong ones, and what groups' rewards are mixed "
            "to says neither; leave one of the two out."
        )
