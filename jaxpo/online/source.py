"""The source of a stage's batches: prompts, answers of the model of the moment, rewards, advantages, packed rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.config import Online, Stage
from jaxpo.data.packing.batch import Batch
from jaxpo.data.source import steps_of
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.rollouts import ADVANTAGES, OLD_LOGPS, OLD_VALUES, REF_LOGPS
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.outcomes import Outcomes
from jaxpo.objectives.wrappers.moving_reference import METHOD
from jaxpo.online.advantages import Shaped, deviation, summed
from jaxpo.online.answers import Answer
from jaxpo.online.batches import Trained, batch_of
from jaxpo.online.examples import examples, figures
from jaxpo.online.feed import RolloutFeed
from jaxpo.online.generation import Generation, Maker
from jaxpo.online.layout import Layout
from jaxpo.online.ledger import SharedLedger
from jaxpo.online.mixing import Mixer
from jaxpo.online.outcomes import Past, Paying, outcomes_of
from jaxpo.online.prompts import Prompts
from jaxpo.online.recording import Recorded, Recorder
from jaxpo.online.scaling import Scaler
from jaxpo.online.schedule import Schedule
from jaxpo.online.scoring import by_content
from jaxpo.online.talk import talk_figures
from jaxpo.online.thresholds import mean_reward, out_of_reach, searching
from jaxpo.online.token_advantages import made_of
from jaxpo.online.training import columns_of, make_read, own_rows, per_token_of, trained
from jaxpo.online.writer import Asked
from jaxpo.sampling.sampler import Sampler

Tree = Any


@dataclass
class RolloutSource:
    """Batches of answers to the prompts of a stage.

    Attributes:
      policy: what is trained -> the plain model's own tree.
      method: of the stage: how it compares rewards (`advantage`), who answers for it and what it is trained on
        (`answering`), and what it needs of every token.
      networks: state -> those that the trainer reads before it trains, see `jaxpo.online.training.make_read`.
      reference: how the reference is run.
      layout: shape of every batch.
      said: what was said once.
      returns: mean rewards of the constraints, of the generations that this process has seen.
    """

    stage: Online
    method: Any
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
    mixer: Mixer | None = field(init=False)
    scaler: Scaler | None = field(init=False)
    past: Past = field(init=False)
    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    returns: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        stage = self.stage
        self.schedule = Schedule(stage.steps_per_generation, stage.num_iterations, stage.max_staleness)
        self.weights = weights_of(stage)
        self.mixer = None
        if stage.maxmin is not None:
            groups = np.flatnonzero(self.weights).tolist()
            self.mixer = Mixer(stage.maxmin, groups, lambda number: self.maker.read(number).rewards)
        scaling = self.method.scaling
        self.scaler = None if scaling is None else Scaler(scaling, self._paid)
        self.past = Past(self.method.remembered, lambda number: self._outcomes(self.maker.read(number)))
        needs, penalty = self.method.NEEDS, self.method.penalty
        searched = () if self.method.threshold_search is None else self.method.streams[1:]
        names_of_rewards = self.maker.scoring.names
        self.columns = columns_of(names_of_rewards, needs, penalised=penalty is not None, searched=searched)
        self.per_token = per_token_of(stage, needs)
        read_beforehand = (OLD_LOGPS, REF_LOGPS, OLD_VALUES)
        names = tuple(name for name in self.per_token if name.partition(":")[0] in read_beforehand)
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
            self.method.answering.opponents,
            searching(self.method, names_of_rewards, self.held_out_mean),
        )

    def _paid(self, number: int) -> np.ndarray:
        """`[G, K]` what the answers of an earlier generation were paid."""
        return summed(*self.mixed(number, self.maker.read(number).rewards))

    def held_out_mean(self, state: Any, name: str) -> float:
        """Mean of a reward over answers to the held-out prompts."""
        return float(self.evaluate(state)[f"rewards/{name}/mean"])

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
        """Of the generation that the last of these rows were of: prompts that were replaced, its times, and of methods
        on pairs what became of its answers."""
        step = rows_seen // self.stage.rows_per_step - 1
        return dict(self.figures.get(self.schedule.generation(step), {})) if step >= 0 else {}

    def empty(self) -> Batch:
        """This process's rows of a step without any answer."""
        return own_rows(batch_of([], self.layout, self.per_token, self.columns))

    def open(self, rows_seen: int, steps: int) -> RolloutFeed:
        """The next `steps` batches after `rows_seen` rows."""
        epochs = self.epoch_of(rows_seen + steps * self.stage.rows_per_step)
        if self.method.REMEMBERS and epochs <= 1:
            self.once(
                "one epoch",
                f"warning: {self.method.INFO.name} compares answers with those of earlier epochs, and this stage asks "
                f"its {len(self.maker.prompts)} prompts {epochs:.2g} times: without a second encounter it is plain "
                "correctness. Give more steps or fewer prompts, 2 epochs at least",
            )
        return RolloutFeed(self, rows_seen // self.stage.rows_per_step, steps)

    def shape(self, generation: Generation, recorded: Recorded) -> tuple[Shaped, Mapping[str, Sequence[np.ndarray]]]:
        """Rewards of a generation, compared, and its per-token columns; what is logged of it is kept."""
        paying = self._paying(generation)
        values, mixed_by = self.mixed(generation.number, generation.rewards)
        raw, weights = summed(values, mixed_by), mixed_by
        if self.scaler is not None:
            values, weights = self.scaler.scaled(generation.number, raw)[..., None], np.ones(1)
        found, columns = made_of(
            dataclasses.replace(generation, rewards=values),
            recorded,
            self.method,
            weights,
            aggregation=self.stage.multi_objective_aggregation,
            longest=self.stage.max_completion_length,
            names=self.maker.scoring.names,
            paid=paying,
            mask_truncated=self.stage.mask_truncated_completions,
        )
        if self.scaler is not None:
            found = dataclasses.replace(found, reward=raw, std=deviation(raw))
        answers = [answer for group in generation.groups for answer in group.answers]
        self._note(generation, found, mixed_by, answers)
        if paying is not None:
            self.figures[generation.number] |= paying.figures
        self._warn(generation, found, answers)
        return found, columns

    def mixed(self, number: int, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards `[G, K, F]` of a generation as they are added up, and their weights."""
        return (rewards, self.weights) if self.mixer is None else self.mixer.mixed(number, rewards)

    def _note(self, generation: Generation, found: Shaped, weights: np.ndarray, answers: Sequence[Answer]) -> None:
        """Keep what is logged of a generation."""
        size, names = self.maker.size, self.maker.scoring.names
        kept = {"prompts_replaced": float(generation.tried - size)} if self.stage.dynamic_sampling else {}
        seconds = {f"{name}_seconds": s for name, s in generation.seconds.items()}
        timed = {"rollouts/" + name: value for name, value in seconds.items()}
        self.figures[generation.number] = kept | timed | dict(generation.figures)
        if self.mixer is not None and len(weights) == len(self.mixer.groups):
            groups = [names[number] for number in self.mixer.groups]
            weighed = {f"maxmin/{name}/weight": float(w) for name, w in zip(groups, weights, strict=True)}
            self.figures[generation.number] |= weighed
        if ADVANTAGES not in self.method.NEEDS.per_token:  # its objective sees no rewards and lengths
            self.figures[generation.number] |= figures(self.method.answering, generation, found, names)
        if talks := [answer.talk for answer in answers if answer.talk is not None]:
            self.figures[generation.number] |= talk_figures(talks)

    def watch(self, generation: Generation, recorded: Recorded, state: Any) -> None:
        """Say once which thresholds of the rewards seem out of reach."""
        method, names = self.method, self.maker.scoring.names
        if len(method.streams) < 2:
            return
        held = method.streams[1:]
        self.returns.append([mean_reward(generation, names.index(name)) for name in held])
        carry = state.carry[METHOD] if self.stage.sync_ref_model else state.carry
        weights = np.asarray(method.multipliers(carry))
        thresholds = recorded.thresholds or dict(method.thresholds)
        for name, line in out_of_reach(held, self.returns, thresholds, weights, bound=method.bound).items():
            self.once(f"threshold {name}", f"generation {generation.number}: {line}")

    def _paying(self, generation: Generation) -> Paying | None:
        """How the method pays this generation's answers; None where it takes the rewards as they are."""
        if not self.method.PAYS:
            return None
        memory = self.past.before(generation.number) if self.method.REMEMBERS else {}
        return Paying(self.method, self._outcomes(generation), memory)

    def _outcomes(self, generation: Generation) -> Outcomes:
        return outcomes_of(generation, self.maker.scoring.verifies, self.stage.max_completion_length)

    def _warn(self, generation: Generation, found: Shaped, answers: Sequence[Answer]) -> None:
        """Say once that nothing is learnt from rewards, that none says right or wrong, or that no answer ends."""
        answering: Answering = self.method.answering
        compares = answering.rewarded and (answering.examples != "each" or self.method.advantage.baseline != "none")
        if compares and not found.teaches.any():
            least = "nothing" if self.method.penalty is None else "nothing but the KL in the rewards"
            self.once(
                "flat",
                f"generation {generation.number}: all answers to each prompt have one reward, so that "
                f"{least} is learnt from them; `frac_reward_zero_std` says how often. Prompts neither too easy "
                "nor too hard, more answers per prompt (num_generations) or a finer reward help (said once)",
            )
        known = found.reward[~np.isnan(found.reward)]
        if self.method.BINARY and known.size and not np.isin(known, (0.0, 1.0)).any():
            self.once(
                "neither",
                f"generation {generation.number}: no reward is exactly 1 or 0, so that to {self.method.INFO.name} no "
                "answer is right or wrong, and nothing is learnt from them. Give a reward that verifies alone, with "
                "weight 1, and the others weight 0 (said once)",
            )
        if not any(answer.finished for answer in answers):
            self.once(
                "endless",
                f"generation {generation.number}: no answer ended within max_completion_length "
                f"({self.stage.max_completion_length}) tokens. Raise it; or fine-tune the model on answers "
                "with an end first, if it knows none (said once)",
            )

    def examples(
        self,
        generation: Generation,
        shaped: Shaped,
        recorded: Recorded,
        columns: Mapping[str, Sequence[np.ndarray]],
        places: range,
    ) -> list[Trained]:
        """What is trained on of the groups at these places."""
        scoring, answering = self.maker.scoring, self.method.answering
        each = trained(
            generation,
            shaped,
            scoring.names,
            scoring.verifies,
            columns,
            mask_truncated=self.stage.mask_truncated_completions,
            kl_coef=recorded.kl_coef,
            thresholds=recorded.thresholds,
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

        def ledger(name: str, about: Mapping[str, Any]) -> SharedLedger:
            return SharedLedger(maker.journal.folder / "held_out", f"reward-{name}", about)

        values, _ = maker.scoring.score(groups, ledger, by_content)
        answers = [answer for group in groups for answer in group.answers]
        mixed = _mean(summed(values, self.weights)) if self.mixer is None else self.mixer.worst(values)
        found = {"reward": mixed} if maker.scoring.names else {}
        found |= {
            "completions/mean_length": float(np.mean([a.written for a in answers])),
            "completions/clipped_ratio": float(np.mean([not a.finished for a in answers])),
        }
        return found | {f"rewards/{name}/mean": _mean(values[..., f]) for f, name in enumerate(maker.scoring.names)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def weights_of(stage: Online) -> np.ndarray:
    """Of the rewards of a stage."""
    return np.asarray(stage.reward_weights or (1.0,) * len(stage.reward_funcs))
