"""The checks of a stage that learns from its model's own answers. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.config.fields import flag
from jaxpo.data.rows.needs import TEACHER, Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.answering import Answering
from jaxpo.online.environments.base import check_environment
from jaxpo.recipe.beside import START
from jaxpo.recipe.checks.sharing import sharing_problems
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
    yield from _answering_problems(stage)
    if len(roles := getattr(stage.loss, "NEEDS", Needs()).roles) > 2 and not hasattr(stage, "pair_rows"):
        read = ", ".join(roles)
        yield f"{name}.loss: {stage.loss.INFO.name} reads {read}; give a Hybrid stage, whose rows are pairs."
    yield from _reward_problems(run, index, stage)
    yield from sharing_problems(run, stage)
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
    elif data.max_length <= data.row_length:
        yield from _row_problems(stage)
    if data.block_rows not in (None, 1):
        yield f"{name}.data.block_rows: {data.block_rows}, but an answer is one segment; leave it out."


def _row_problems(stage: Online) -> Iterator[str]:
    """Rows hold the longest answers; both of a pair lie in one."""
    name, data, answering = stage.name, stage.data, answering_of(stage)
    each = len(answering.roles)
    if stage.per_row < each:
        yield (
            f"{name}.data.row_length: {data.row_length} holds one answer of up to {data.max_length} tokens with its "
            f"prompt, and both of a pair lie in one row; give {flag((name, 'data', 'row_length'))} "
            f"{each * data.max_length}."
        )
        return
    examples = stage.prompts_per_step * answering.per_group(stage.num_generations)
    needed = -(-examples // (stage.per_row // each))
    if needed > stage.rows_per_step:
        what = "answers" if each == 1 else "pairs of answers"
        yield (
            f"{name}.rows_per_step: {examples} {what} of up to {data.max_length} tokens with their prompts need "
            f"{needed} rows of {data.row_length}, and a step has {stage.rows_per_step}; give "
            f"{flag((name, 'rows_per_step'))} {needed}. Microbatches that stay empty cost nothing."
        )


def answering_of(stage: Online) -> Answering:
    """Who answers for the stage's method, and what becomes of the answers."""
    found: Answering = getattr(stage.loss, "answering", Answering())
    return found


def _group_problems(stage: Online) -> Iterator[str]:
    """Answers that are compared within their group need company; opponents need as many of the policy's."""
    answering, n = answering_of(stage), stage.num_generations
    advantage = getattr(stage.loss, "advantage", None)
    alone = advantage is not None and advantage.baseline == "none"
    paired = answering.examples != "each"
    if n < 2 and (paired or not alone) and stage.reward_funcs:
        yield (f"{stage.name}.num_generations: a group of {n} has nothing to compare its answer with; give at least 2.")
    if answering.opponents and n % 2:
        yield (f"{stage.name}.num_generations: {n} is odd, and half of every group is an opponent's; give {n + 1}.")
    if answering.by == "policy_or_data" and n != 1:
        yield (
            f"{stage.name}.num_generations: {n}, but a row has one completion that may stand for the student's answer; "
            "give 1, or lmbda 1."
        )


def _answering_problems(stage: Online) -> Iterator[str]:
    """What methods with other writers, without rewards or on pairs cannot have."""
    name, answering = stage.name, answering_of(stage)
    mixed = answering.by in ("policy_and_mixture", "teacher_mixture")
    if mixed and stage.engine.quantize is not None:
        yield f"{name}.engine.quantize: a mixture of two models is not quantised; leave it out."
    if answering.opponents and stage.sync_ref_model:
        yield f"{name}.sync_ref_model: answers are written with the reference as it is; leave it out."
    if answering.roles != ("completion",) and stage.mask_truncated_completions:
        yield (
            f"{name}.mask_truncated_completions: of a pair both answers are trained on; leave it out, or give "
            f"{flag((name, 'loss', 'missing_eos_penalty'))} 1, so that an answer without an end loses."
        )
    if not answering.rewarded and not stage.reward_funcs and stage.dynamic_sampling:
        yield f"{name}.dynamic_sampling: without rewards no group is better than another; leave it out."
    if stage.environment is not None:
        yield from (f"{name}.environment: {problem}" for problem in check_environment(stage.environment))
        if answering.by != "policy":
            yield f"{name}.environment: the policy alone talks with environments; choose a loss such as GRPO."
    elif any(getattr(reward, "NAME", "") == "environment" for reward in stage.reward_funcs):
        yield f"{name}.reward_funcs: there is no environment whose reward would be read; give {name}.environment."
    teacher = dict(stage.beside).get(TEACHER)
    if "teacher" in dict(getattr(stage.loss, "NEEDS", Needs()).networks) and (
        teacher is None or teacher.source == START
    ):
        yield (
            f'{name}.beside: there is no teacher; give beside=(("teacher", Beside("STAGE or FOLDER")),), or '
            f"{flag((name, 'beside', TEACHER, 'source'))} FOLDER."
        )


def _reward_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """There is a reward, each has its weight, and none lacks what it reads."""
    name, rewards, weights = stage.name, stage.reward_funcs, stage.reward_weights
    if not rewards and answering_of(stage).rewarded:
        yield f"{name}.reward_funcs: no reward; give one of jaxpo.online.rewards, or a judge of jaxpo.judges."
    if weights and len(weights) != len(rewards):
        yield f"{name}.reward_weights: {len(weights)} weights for {len(rewards)} rewards; give one for each."
    if weights and answering_of(stage).rewarded and not any(weights):
        yield f"{name}.reward_weights: all are 0, so that nothing is learnt from any reward; give one another weight."
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
        if stage.max_staleness and getattr(reward, "MAIN_THREAD", False):  # rewards need not be judges
            yield f"{where}: works in the main thread, and with max_staleness rewards are given beside it; give 0."
        for model in reward.models():
            if model not in earlier and not (model == "previous" and earlier):
                yield f"{where}: the model {model!r} is not that of an earlier stage ({', '.join(earlier) or 'none'})."


def _called(reward: Any) -> str:
    return repr(reward) if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
