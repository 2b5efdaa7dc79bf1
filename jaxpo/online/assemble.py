"""How the source of an online stage is put together: its prompts, its writers, its rewards, their ledger."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxpo.config import Online
from jaxpo.data.durable import publish
from jaxpo.data.rows.needs import REFERENCE
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.judges.asking import Patience
from jaxpo.judges.base import Networks
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.answering import Answering
from jaxpo.online.advantages import deviation, summed
from jaxpo.online.environments.prompts import prompts_of
from jaxpo.online.generation import Maker
from jaxpo.online.layout import Layout
from jaxpo.online.ledger import FOLDER, Journal
from jaxpo.online.prompts import Prompts
from jaxpo.online.scoring import ENVIRONMENT, Scoring, changed, row_of
from jaxpo.online.source import RolloutSource, weights_of
from jaxpo.online.writer import Writer
from jaxpo.online.writers import Writes, writer_of
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding.turns import first_process_first

Tree = Any
REWARDS = "rewards.json"


def rollout_source(
    stage: Online,
    method: Any,
    *,
    prompts: Any,
    held_out: Any,
    folder: Path,
    seed: int,
    scorer: Scorer,
    scorers: Mapping[str, Scorer],
    networks: Callable[[Any], Mapping[str, Tree]],
    policy: Callable[[Any], Tree],
    network: Networks,
    say: Callable[[str], None],
    show: Callable[[str], None],
    frozen: Mapping[str, Tree],
) -> RolloutSource:
    """The source of an online stage.

    Args:
      method: what the stage minimises.
      frozen, scorers: the networks beside the trained one, of which some methods have answers written, and how those
        are run that have an architecture of their own.
      prompts, held_out: the loaders of the stage's files.

    Raises:
      ConfigError: a reward has changed since the stage began, or lacks the network that it asks.
    """
    scoring = Scoring(stage.reward_funcs, network, Patience(stage.reward_tries, stage.reward_failures), say)
    played = {} if stage.environment is None else {ENVIRONMENT: stage.environment.identity()}
    first_process_first(lambda: _same_rewards(folder / FOLDER, scoring.identity() | played))
    trained = prompts_of(stage, prompts.dataset, seed, shuffle=stage.data.shuffle)
    scoring.open()
    dtype = stage.engine.dtype or scorer.dtype
    own = Writer(scorer.config, prompts.dataset.tokenizer, stage.data.max_length, dtype, seed, stage.engine, say)
    writer, about = writer_of(stage, method.answering, own, frozen, scorers)
    if method.answering.by == "policy_or_data":
        for number in range(len(trained)):
            writer.other.completion(trained.at(number))  # type: ignore[attr-defined]
    settings = _settings(stage, prompts.dataset, scorer, seed) | about
    named = json.dumps([settings, scoring.identity()], sort_keys=True, default=str)
    layout = Layout(
        stage.rows_per_step,
        stage.data.row_length,
        stage.data.max_length,
        stage.slots,
        stage.gradient_accumulation_steps,
        prompts.dataset.tokenizer.pad_id,
        method.answering.roles,
        stage.longest_shared,
    )
    return RolloutSource(
        stage=stage,
        method=method,
        maker=_maker(stage, method.answering, trained, writer, scoring, Journal(folder / FOLDER, settings), show),
        held_out=None if held_out is None else prompts_of(stage, held_out.dataset, seed, shuffle=False),
        layout=layout,
        scorer=dataclasses.replace(scorer, temperature=stage.temperature),
        reference=scorers.get(REFERENCE, scorer),
        networks=networks,
        policy=policy,
        say=say,
        show=show,
        hash=hashlib.sha256(named.encode()).hexdigest(),
    )


def check_prompts(stage: Online, method: Any, train: Dataset, held_out: Dataset | None) -> None:
    """Every reward, environment and method can use every prompt, and those held-out ones that are measured.

    Raises:
      ConfigError: a reward lacks what it reads.
      DataError: a row that one of them cannot use.
    """
    for dataset, most in ((train, None), (held_out, stage.eval_rows)):
        if dataset is not None:
            prompts = prompts_of(stage, dataset, 0, shuffle=False)
            rows = [row_of(prompts.at(number)) for number in range(len(prompts))[:most]]
            for reward in stage.reward_funcs:
                reward.check(rows)
            method.check_rows(rows)


def _sampler(stage: Online) -> Sampler:
    return Sampler(
        temperature=stage.temperature,
        top_k=stage.top_k,
        top_p=stage.top_p,
        min_p=stage.min_p,
        repetition_penalty=stage.repetition_penalty,
    )


def _settings(stage: Online, dataset: Dataset, scorer: Scorer, seed: int) -> dict[str, Any]:
    """Everything that answers depend on besides the weights."""
    return {
        "prompts": dataset.hash,
        "sampler": dataclasses.asdict(_sampler(stage)),
        "engine": [stage.engine.dtype or scorer.dtype, stage.engine.quantize],
        "answers": [stage.num_generations, stage.max_completion_length, stage.dynamic_sampling],
        "size": stage.prompts_per_step * stage.steps_per_generation,
        "seed": seed,
    }


def _maker(
    stage: Online,
    answering: Answering,
    prompts: Prompts,
    writer: Writes,
    scoring: Scoring,
    journal: Journal,
    show: Callable[[str], None],
) -> Maker:
    """What makes the stage's generations."""
    size, weights = stage.prompts_per_step * stage.steps_per_generation, weights_of(stage)
    return Maker(
        prompts,
        writer,
        scoring,
        journal,
        size,
        stage.num_generations,
        _sampler(stage),
        stage.max_completion_length,
        stage.dynamic_sampling,
        lambda rewards: deviation(summed(rewards, weights)),
        size * stage.num_generations // (2 if answering.opponents else 1),
        show,
    )


def _same_rewards(folder: Path, identity: Mapping[str, Any]) -> None:
    """Rewards and environment are those that the stage began with; a new stage writes down which."""
    path, now = folder / REWARDS, json.loads(json.dumps(identity, default=str))
    if path.exists():
        changed(json.loads(path.read_text(encoding="utf-8")), now, folder.parent)
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")
    publish(temporary, path)
