"""The source of a stage's batches: prompts, answers of the model of the moment, rewards, advantages, packed rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.config import Online, Stage
from jaxpo.data.durable import publish
from jaxpo.data.rows.needs import REFERENCE
from jaxpo.data.source import steps_of
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Patience
from jaxpo.judges.base import Networks
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.rollouts import OLD_LOGPS, OLD_VALUES, REF_LOGPS
from jaxpo.objectives.methods.rollouts import RolloutMethod
from jaxpo.online.advantages import Shaped, deviation, summed
from jaxpo.online.batches import Layout
from jaxpo.online.feed import RolloutFeed
from jaxpo.online.generation import Generation, Maker
from jaxpo.online.ledger import FOLDER, Journal, SharedLedger
from jaxpo.online.prompts import Prompts
from jaxpo.online.recording import Recorded, Recorder
from jaxpo.online.schedule import Schedule
from jaxpo.online.scoring import Scoring, by_content, changed
from jaxpo.online.token_advantages import made_of
from jaxpo.online.training import columns_of, make_read, per_token_of
from jaxpo.online.writer import Asked, Writer
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding.turns import first_process_first

Tree = Any
REWARDS = "rewards.json"


@dataclass
class RolloutSource:
    """Batches of answers to the prompts of a stage.

    Attributes:
      policy: what is trained -> the plain model's own tree.
      method: of the stage: how it compares rewards, and what it needs of every token.
      networks: state -> those that the trainer reads before it trains, see `jaxpo.online.training.make_read`.
      reference: how the reference is run.
      layout: shape of every batch.
      said: what was said once.
    """

    stage: Online
    method: RolloutMethod
    maker: Maker
    held_out: Prompts | None
    layout: Layout
    scorer: Scorer
    reference: Scorer
    networks: Callable[[Any], Mapping[str, Tree]]
    policy: Callable[[Any], Tree]
    say: Callable[[str], None]
    show: Callable[[str], None]
    hash: str
    schedule: Schedule = field(init=False)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        stage = self.stage
        self.schedule = Schedule(stage.steps_per_generation, stage.num_iterations, stage.max_staleness)
        self.weights = _weights(stage)
        penalty = self.method.penalty
        self.columns = columns_of(self.maker.scoring.names, penalised=penalty is not None)
        self.per_token = per_token_of(stage, self.method.NEEDS.per_token)
        names = tuple(name for name in (OLD_LOGPS, REF_LOGPS, OLD_VALUES) if name in self.per_token)
        sampler, longest = stage.old_logps == "sampler", stage.max_completion_length
        asked = [name for name in names if not (sampler and name == OLD_LOGPS)]
        read = make_read(self.scorer, self.reference, self.layout, asked)
        self.recorder = Recorder(
            self.maker.journal,
            self.layout,
            names,
            lambda state, batch: read(self.networks(state), batch),
            lambda state: self.networks(state)["policy"],
            sampler,
            penalty,
            longest,
        )

    def logps(self, state: Any, batch: Any) -> np.ndarray:
        """`[R, S]` log-probs by the trainer."""
        read = make_read(self.scorer, self.reference, self.layout, [OLD_LOGPS])
        return read(self.networks(state), batch)[OLD_LOGPS]

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
        """Of the generation that the last of these rows were of: prompts that were replaced, and its times."""
        step = rows_seen // self.stage.rows_per_step - 1
        return dict(self.figures.get(self.schedule.generation(step), {})) if step >= 0 else {}

    def open(self, rows_seen: int, steps: int) -> RolloutFeed:
        """The next `steps` batches after `rows_seen` rows."""
        return RolloutFeed(self, rows_seen // self.stage.rows_per_step, steps)

    def shape(self, generation: Generation, recorded: Recorded) -> tuple[Shaped, Mapping[str, Sequence[np.ndarray]]]:
        """Rewards of a generation, compared, and its per-token columns; what is logged of it is kept."""
        found, columns = made_of(
            generation,
            recorded,
            self.method,
            self.weights,
            aggregation=self.stage.multi_objective_aggregation,
            longest=self.stage.max_completion_length,
        )
        size = self.maker.size
        kept = {"prompts_replaced": float(generation.tried - size)} if self.stage.dynamic_sampling else {}
        seconds = {f"{name}_seconds": s for name, s in generation.seconds.items()}
        self.figures[generation.number] = kept | {"rollouts/" + name: value for name, value in seconds.items()}
        answers = [answer for group in generation.groups for answer in group.answers]
        if found.flat.all() and self.method.advantage.baseline != "none":
            least = "nothing" if self.method.penalty is None else "nothing but the KL in the rewards"
            self.once(
                "flat",
                f"generation {generation.number}: all answers to each prompt have one reward, so that "
                f"{least} is learnt from them; `frac_reward_zero_std` says how often (said once)",
            )
        if not any(answer.finished for answer in answers):
            self.once(
                "endless",
                f"generation {generation.number}: no answer ended within max_completion_length "
                f"({self.stage.max_completion_length}) tokens; does the model know its end? (said once)",
            )
        return found, columns

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
        maker.writer.use(self.policy(state.params), maker.size * maker.n)
        how = Sampler(temperature=stage.eval_temperature)
        n, limit = stage.num_generations_eval, stage.max_completion_length
        groups = sorted(maker.writer.write(asked, n, how, limit, "held-out prompts"), key=lambda group: group.place)

        def ledger(name: str, about: Mapping[str, Any]) -> SharedLedger:
            return SharedLedger(maker.journal.folder / "held_out", f"reward-{name}", about)

        values, _ = maker.scoring.score(groups, ledger, by_content)
        answers = [answer for group in groups for answer in group.answers]
        found = {
            "reward": _mean(summed(values, self.weights)),
            "completions/mean_length": float(np.mean([len(a.tokens) for a in answers])),
            "completions/clipped_ratio": float(np.mean([not a.finished for a in answers])),
        }
        return found | {f"rewards/{name}/mean": _mean(values[..., f]) for f, name in enumerate(maker.scoring.names)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def rollout_source(
    stage: Online,
    method: RolloutMethod,
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
) -> RolloutSource:
    """The source of an online stage.

    Args:
      scorers: how networks are run that have an architecture of their own.
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
    first_process_first(lambda: _same_rewards(folder / FOLDER, scoring))
    trained = Prompts(prompts.dataset, seed=seed, shuffle=stage.data.shuffle)
    scoring.check([trained.at(number) for number in range(len(trained))])
    settings = _settings(stage, prompts.dataset, scorer, seed)
    named = json.dumps([settings, scoring.identity()], sort_keys=True, default=str)
    layout = Layout(
        stage.rows_per_step,
        stage.data.row_length,
        stage.data.max_length,
        stage.slots,
        stage.gradient_accumulation_steps,
        prompts.dataset.tokenizer.pad_id,
    )
    return RolloutSource(
        stage=stage,
        method=method,
        maker=_maker(stage, trained, scoring, Journal(folder / FOLDER, settings), scorer, seed, say, show),
        held_out=None if held_out is None else Prompts(held_out.dataset, seed=seed, shuffle=False),
        layout=layout,
        scorer=dataclasses.replace(scorer, temperature=stage.temperature),
        reference=scorers.get(REFERENCE, scorer),
        networks=networks,
        policy=policy,
        say=say,
        show=show,
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
    stage: Online,
    prompts: Prompts,
    scoring: Scoring,
    journal: Journal,
    scorer: Scorer,
    seed: int,
    say: Callable[[str], None],
    show: Callable[[str], None],
) -> Maker:
    """What makes the stage's generations."""
    dtype, weights = stage.engine.dtype or scorer.dtype, _weights(stage)
    tokenizer = prompts.dataset.tokenizer
    return Maker(
        prompts,
        Writer(scorer.config, tokenizer, stage.data.max_length, dtype, seed, stage.engine, say),
        scoring,
        journal,
        stage.prompts_per_step * stage.steps_per_generation,
        stage.num_generations,
        _sampler(stage),
        stage.max_completion_length,
        stage.dynamic_sampling,
        lambda rewards: deviation(summed(rewards, weights)),
        show,
    )


def _same_rewards(folder: Path, scoring: Scoring) -> None:
    """The rewards are those that the stage began with; a new stage writes down which."""
    path, now = folder / REWARDS, json.loads(json.dumps(scoring.identity(), default=str))
    if path.exists():
        changed(json.loads(path.read_text(encoding="utf-8")), now, folder.parent)
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(now, indent=1), encoding="utf-8")
    publish(temporary, path)
