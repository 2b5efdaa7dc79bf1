"""The source of a stage's batches: prompts, answers of the model of the moment, rewards, advantages, packed rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.config import Online, Stage
from jaxpo.data.durable import publish
from jaxpo.data.source import steps_of
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Patience
from jaxpo.judges.base import Networks
from jaxpo.judges.ledger import Ledger
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.rollouts import ADVANTAGES
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.rollouts import Advantage
from jaxpo.online.advantages import Shaped, deviation, shaped, summed
from jaxpo.online.batches import Layout, Trained
from jaxpo.online.environments.prompts import prompts_of
from jaxpo.online.examples import examples, figures, penalties
from jaxpo.online.feed import RolloutFeed
from jaxpo.online.generation import Generation, Maker
from jaxpo.online.ledger import FOLDER, Journal
from jaxpo.online.prompts import Prompts
from jaxpo.online.schedule import Schedule
from jaxpo.online.scoring import ENVIRONMENT, Scoring, by_content, changed
from jaxpo.online.talk import talk_figures
from jaxpo.online.training import columns_of, make_logps, per_token_of, trained
from jaxpo.online.writer import Asked, Writer
from jaxpo.online.writers import Writes, writer_of
from jaxpo.sampling.sampler import Sampler

Tree = Any
REWARDS = "rewards.json"


@dataclass
class RolloutSource:
    """Batches of answers to the prompts of a stage.

    Attributes:
      policy: what is trained -> the plain model's own tree.
      method: of the stage: how it compares rewards (`advantage`), who answers for it and what it is trained on
        (`answering`).
      layout: shape of every batch.
      said: what was said once.
    """

    stage: Online
    method: Any
    maker: Maker
    held_out: Prompts | None
    layout: Layout
    scorer: Scorer
    policy: Callable[[Any], Tree]
    say: Callable[[str], None]
    hash: str
    schedule: Schedule = field(init=False)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        stage = self.stage
        self.schedule = Schedule(stage.steps_per_generation, stage.num_iterations, stage.max_staleness)
        self.weights = _weights(stage)
        needs = self.method.NEEDS
        self.columns, self.per_token = columns_of(self.maker.scoring.names, needs), per_token_of(stage, needs)
        self.logps = make_logps(self.scorer, self.layout)

    def total_steps(self, stage: Stage) -> int:
        """Of the stage's budget; an epoch asks every prompt once, and trains on its answers in every iteration."""
        per_step = self.stage.prompts_per_step / self.stage.num_iterations
        rows = self.stage.rows_per_step / per_step * len(self.maker.prompts)
        return steps_of(stage, lambda epoch: round(rows))

    def epoch_of(self, rows_seen: int) -> float:
        """Passes over the prompts, those not counted that were replaced."""
        steps = rows_seen / self.stage.rows_per_step
        return steps * self.stage.prompts_per_step / self.stage.num_iterations / len(self.maker.prompts)

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        """Of the generation that the last of these rows were of: prompts that were replaced, its times, and of methods
        on pairs what became of its answers."""
        step = rows_seen // self.stage.rows_per_step - 1
        return dict(self.figures.get(self.schedule.generation(step), {})) if step >= 0 else {}

    def open(self, rows_seen: int, steps: int) -> RolloutFeed:
        """The next `steps` batches after `rows_seen` rows."""
        return RolloutFeed(self, rows_seen // self.stage.rows_per_step, steps)

    def shape(self, generation: Generation) -> Shaped:
        """Advantages of a generation, and what is logged of it."""
        aggregation = self.stage.multi_objective_aggregation
        lengths = np.asarray([[answer.written for answer in group.answers] for group in generation.groups])
        answering: Answering = self.method.answering
        lost = penalties(answering, generation.groups)
        how: Advantage = self.method.advantage
        found = shaped(generation.rewards, self.weights, how, lengths, aggregation=aggregation, penalties=lost)
        size = self.maker.size
        kept = {"prompts_replaced": float(generation.tried - size)} if self.stage.dynamic_sampling else {}
        seconds = {f"{name}_seconds": s for name, s in generation.seconds.items()}
        self.figures[generation.number] = kept | {"rollouts/" + name: value for name, value in seconds.items()}
        if ADVANTAGES not in self.method.NEEDS.per_token:  # its objective sees no rewards and lengths
            self.figures[generation.number] |= figures(answering, generation, found)
        answers = [answer for group in generation.groups for answer in group.answers]
        if talks := [answer.talk for answer in answers if answer.talk is not None]:
            self.figures[generation.number] |= talk_figures(talks)
        if answering.rewarded and found.flat.all():
            self.once(
                "flat",
                f"generation {generation.number}: all answers to each prompt have one reward, so that "
                "nothing is learnt from them; `frac_reward_zero_std` says how often. Prompts that are neither too easy "
                "nor too hard, more answers per prompt (num_generations) or a finer reward help (said once)",
            )
        if not any(answer.finished for answer in answers):
            self.once(
                "endless",
                f"generation {generation.number}: no answer ended within max_completion_length "
                f"({self.stage.max_completion_length}) tokens. Raise it; or fine-tune the model on answers "
                "with an end first, if it knows none (said once)",
            )
        return found

    def examples(self, generation: Generation, shaped: Shaped, places: range) -> list[Trained]:
        """What is trained on of the groups at these places."""
        scoring, answering = self.maker.scoring, self.method.answering
        each = trained(
            generation,
            shaped,
            scoring.names,
            scoring.verifies,
            mask_truncated=self.stage.mask_truncated_completions,
            places=places,
            answering=answering,
        )
        return examples(answering, each, shaped, places)

    def once(self, what: str, line: str) -> None:
        """Say something the first time."""
        if what not in self.said:
            self.said.add(what)
            self.say(line)

    def evaluate(self, state: Any) -> Mapping[str, float]:
        """Rewards and lengths of answers to the held-out prompts, by the weights of the moment."""
        assert self.held_out is not None
        stage, maker = self.stage, self.maker
        count = min(stage.eval_rows, len(self.held_out))
        asked = [Asked(i, i, self.held_out.at(i)) for i in range(count)]
        writer = maker.writer.own
        writer.use(self.policy(state.params), maker.at_once)
        how = Sampler(temperature=stage.eval_temperature)
        n, limit = stage.num_generations_eval, stage.max_completion_length
        groups = sorted(writer.write(asked, n, how, limit, "held-out prompts"), key=lambda group: group.place)

        def ledger(name: str, about: Mapping[str, Any]) -> Ledger:
            return Ledger(maker.journal.folder / "held_out", f"reward-{name}", about)

        values, _ = maker.scoring.score(groups, ledger, by_content)
        answers = [answer for group in groups for answer in group.answers]
        found = {"reward": _mean(summed(values, self.weights))} if maker.scoring.names else {}
        found |= {
            "completions/mean_length": float(np.mean([a.written for a in answers])),
            "completions/clipped_ratio": float(np.mean([not a.finished for a in answers])),
        }
        return found | {f"rewards/{name}/mean": _mean(values[..., f]) for f, name in enumerate(maker.scoring.names)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def rollout_source(
    stage: Online,
    method: Any,
    *,
    prompts: Any,
    held_out: Any,
    folder: Path,
    seed: int,
    scorer: Scorer,
    policy: Callable[[Any], Tree],
    network: Networks,
    say: Callable[[str], None],
    frozen: Mapping[str, Tree] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> RolloutSource:
    """The source of an online stage.

    Args:
      method: what the stage minimises.
      frozen, scorers: the networks beside the trained one, of which some methods have answers written.
      prompts, held_out: the loaders of the stage's files.

    Raises:
      ConfigError: a reward has changed since the stage began, or lacks what it reads.
      DataError: a row that a reward cannot use.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"{stage.name}: an online stage runs in one process, and this run has {jax.process_count()}; start it on "
            "one host, whose devices share its work."
        )
    scoring = Scoring(stage.reward_funcs, network, Patience(stage.reward_tries, stage.reward_failures), say)
    played = {} if stage.environment is None else {ENVIRONMENT: stage.environment.identity()}
    _same_rewards(folder / FOLDER, scoring.identity() | played)
    trained = prompts_of(stage, prompts.dataset, seed, shuffle=stage.data.shuffle)
    rows = [trained.at(number) for number in range(len(trained))]
    scoring.check(rows)
    dtype = stage.engine.dtype or scorer.dtype
    own = Writer(scorer.config, prompts.dataset.tokenizer, stage.data.max_length, dtype, seed, stage.engine, say)
    writer, about = writer_of(stage, method.answering, own, frozen or {}, scorers or {})
    if method.answering.by == "policy_or_data":
        for row in rows:
            writer.completion(row)  # type: ignore[attr-defined]
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
    )
    return RolloutSource(
        stage=stage,
        method=method,
        maker=_maker(stage, method.answering, trained, writer, scoring, Journal(folder / FOLDER, settings)),
        held_out=None if held_out is None else prompts_of(stage, held_out.dataset, seed, shuffle=False),
        layout=layout,
        scorer=dataclasses.replace(scorer, temperature=stage.temperature),
        policy=policy,
        say=say,
        hash=hashlib.sha256(named.encode()).hexdigest(),
    )


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


def _weights(stage: Online) -> np.ndarray:
    """Of the rewards."""
    return np.asarray(stage.reward_weights or (1.0,) * len(stage.reward_funcs))


def _maker(
    stage: Online, answering: Answering, prompts: Prompts, writer: Writes, scoring: Scoring, journal: Journal
) -> Maker:
    """What makes the stage's generations."""
    size, weights = stage.prompts_per_step * stage.steps_per_generation, _weights(stage)
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
