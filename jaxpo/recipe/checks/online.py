"""The checks of a stage that learns from its model's own answers. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.config.fields import flag
from jaxpo.errors import ConfigError
from jaxpo.recipe.lineage import with_models
from jaxpo.sampling.sampler import Sampler

AT_LEAST = {
    "num_generations": 1,
    "prompts_per_step": 1,
    "steps_per_generation": 1,
    "num_iterations": 1,
    "max_staleness": 0,
    "max_completion_length": 1,
    "dynamic_sampling": 0,
    "reward_tries": 1,
    "reward_failures": 1,
    "num_generations_eval": 1,
}


def online_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """Numbers out of range, rows that answers do not fit, rewards that cannot be asked."""
    name = stage.name
    for field, least in AT_LEAST.items():
        if getattr(stage, field) < least:
            yield f"{name}.{field}: {getattr(stage, field)} must be at least {least}."
    yield from _sampling_problems(stage)
    yield from _length_problems(stage)
    yield from _group_problems(stage)
    yield from _reward_problems(run, index, stage)
    if stage.max_tokens is not None:
        yield f"{name}.max_tokens: how many tokens the model writes is not known beforehand; give max_steps instead."
    if stage.use_ema:
        yield f"{name}.use_ema: answers are written and measured by the weights that are trained; leave it out."
    for field in ("mix", "curriculum", "fim"):
        if getattr(stage.data, field):
            yield f"{name}.data.{field}: the prompts of an online stage come in one shuffled order; leave it out."


def _sampling_problems(stage: Online) -> Iterator[str]:
    try:
        Sampler(
            temperature=stage.temperature,
            top_k=stage.top_k,
            top_p=stage.top_p,
            min_p=stage.min_p,
            repetition_penalty=stage.repetition_penalty,
        )
        Sampler(temperature=stage.eval_temperature)
    except ConfigError as error:
        yield from (f"{stage.name}: {problem}." for problem in error.problems)
    if stage.temperature == 0:
        yield f"{stage.name}.temperature: 0 is greedy, so that all answers of a group would be one; give more than 0."
    if (slots := stage.engine.slots) is not None and slots < 1:
        yield f"{stage.name}.engine.slots: {slots} must be at least 1."
    if stage.engine.rounds < 1:
        yield f"{stage.name}.engine.rounds: {stage.engine.rounds} must be at least 1."


def _length_problems(stage: Online) -> Iterator[str]:
    """A prompt has room, and the rows hold the longest answers."""
    name, data = stage.name, stage.data
    if stage.longest_prompt < 2:
        yield (
            f"{name}.max_completion_length: {stage.max_completion_length} leaves {stage.longest_prompt} of "
            f"data.max_length {data.max_length} to the prompt; raise {flag((name, 'data', 'max_length'))}."
        )
    elif data.max_length <= data.row_length and stage.rows_needed > stage.rows_per_step:
        yield (
            f"{name}.rows_per_step: {stage.answers_per_step} answers of up to {data.max_length} tokens with their "
            f"prompts need {stage.rows_needed} rows of {data.row_length}, and a step has {stage.rows_per_step}; give "
            f"{flag((name, 'rows_per_step'))} {stage.rows_needed}. Microbatches that stay empty cost nothing."
        )
    if data.block_rows not in (None, 1):
        yield f"{name}.data.block_rows: {data.block_rows}, but an answer is one segment; leave it out."


def _group_problems(stage: Online) -> Iterator[str]:
    """Answers that are compared within their group need company."""
    advantage = getattr(stage.loss, "advantage", None)
    alone = advantage is not None and advantage.baseline == "none"
    if stage.num_generations < 2 and not alone:
        yield (
            f"{stage.name}.num_generations: a group of {stage.num_generations} has nothing to compare its answer with; "
            "give at least 2."
        )


def _reward_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """There is a reward, each has its weight, and none lacks what it reads."""
    name, rewards, weights = stage.name, stage.reward_funcs, stage.reward_weights
    if not rewards:
        yield f"{name}.reward_funcs: no reward; give one of jaxpo.online.rewards, or a judge of jaxpo.judges."
    if weights and len(weights) != len(rewards):
        yield f"{name}.reward_weights: {len(weights)} weights for {len(rewards)} rewards; give one for each."
    for weight in weights:
        if not math.isfinite(weight):
            yield f"{name}.reward_weights: {weight} is no finite number."
    earlier = [s.name for s in with_models(run, index)]
    for i, reward in enumerate(rewards):
        where = f"{name}.reward_funcs[{i}]"
        if not callable(getattr(reward, "open", None)) or isinstance(reward, type):
            yield f"{where}: {_called(reward)} is no reward; use an instance of a class of jaxpo.online.rewards."
            continue
        yield from (f"{where}: {problem}" for problem in reward.problems())
        for model in reward.models():
            if model not in earlier and not (model == "previous" and earlier):
                yield f"{where}: the model {model!r} is not that of an earlier stage ({', '.join(earlier) or 'none'})."


def _called(reward: Any) -> str:
    return repr(reward) if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
