"""W14: a whole step of GRPO - answers, rewards, training - beside TRL's GRPOTrainer with transformers' generation."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

from benchmarks import pairs as real
from benchmarks.ceilings import has
from benchmarks.grpo_trl import Trl
from benchmarks.measure import interleaved, say
from benchmarks.subject import about, config_of, in_transformers, params_of
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.config import Compute, Data, Online, Optimizer
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.online.networks import networks_in_state
from jaxpo.online.rewards import FunctionReward
from jaxpo.online.source import rollout_source
from jaxpo.recipe.kinds import prompts_of
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.train.init import init_state

RATE, REPEATS = 1e-6, 3
PARTS = {"whole step": None, "generation": "writing", "training": "training"}
GOAL = "generation three times TRL's tokens per second, the whole step twice"


@dataclass(frozen=True)
class Size:
    """Prompts of a step, answers to each, tokens of a prompt and of an answer, rows and microbatches of a step."""

    prompts: int = 8
    n: int = 8
    prompt: int = 64
    answer: int = 64
    rows: int = 32
    parts: int = 4

    @property
    def longest(self) -> int:
        return self.prompt + self.answer


TINY = Size(prompts=2, n=2, prompt=16, answer=8, rows=2, parts=1)


def different(completions: list[str], **columns: Any) -> list[float]:
    """A reward that costs nothing: how many different characters an answer has."""
    return [float(len(set(text))) for text in completions]


class Ours:
    """jaxpo's online stage, ledger included; a call is a whole step.

    Attributes:
      parts, written: as of `Trl`.
    """

    def __init__(self, size: Size, config: Any, params: Any, tokenizer: Tokenizer, file: Path, folder: Path):
        stage = Online(
            data=Data(train=(str(file),), max_length=size.longest, row_length=2 * size.longest, shuffle=False),
            loss=GRPO(),
            reward_funcs=(FunctionReward(function=f"{Path(__file__)}:different"),),
            num_generations=size.n,
            prompts_per_step=size.prompts,
            max_completion_length=size.answer,
            rows_per_step=size.rows,
            gradient_accumulation_steps=size.parts,
            optimizer=Optimizer(learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0),
            max_steps=1_000_000,
        )
        cut = prompts_of(stage)
        quiet: Callable[[str], None] = lambda line: None  # noqa: E731
        dataset = prepare(
            cut.train,
            data=cut,
            tokenizer=tokenizer,
            purpose="prompts",
            needs=Needs(),
            cache_dir=folder / "tokens",
            log=quiet,
        )
        mesh, scorer = make_mesh({}, jax.devices()[:1]), make_scorer(config, Compute())
        self.source = rollout_source(
            stage,
            GRPO(),
            prompts=SimpleNamespace(dataset=dataset),
            held_out=None,
            folder=folder / "stage",
            seed=0,
            scorer=scorer,
            scorers={},
            networks=networks_in_state(lambda params: params, {}, moves=False),
            policy=lambda params: params["model"],
            network=lambda name: None,
            say=quiet,
            show=quiet,
        )
        self.assembly = assemble(stage, self.source, scorer, mesh, {})
        start = {"model": params}
        self.state = init_state(self.assembly.abstract, start, self.assembly.optimizer, self.assembly.objective, 0)
        self.feed = self.source.open(0, 1_000_000)
        self.parts: dict[str, list[float]] = {"writing": [], "training": []}
        self.written: list[int] = []
        self.used = 0.0

    def __call__(self) -> float:
        began = time.perf_counter()
        batch = self.feed.next(self.state)
        waited = time.perf_counter() - began
        self.state, metrics = self.assembly.step(self.state, {}, self.assembly.put(batch))
        loss = float(metrics["loss"].value())
        writing = self.source.figures[self.feed.step - 1]["rollouts/writing_seconds"]
        self.parts["writing"].append(writing)
        self.parts["training"].append(time.perf_counter() - began - waited)
        self.written.append(int(batch.masks["completion"].sum()))
        self.used = float((batch.segment_ids > 0).mean())
        return loss


def prompts_from(source: Path, size: Size, options: Options, folder: Path) -> tuple[Tokenizer, list[real.Pair], Path]:
    """A tokenizer, the prompts of real pairs, and a file that holds them."""
    rows = real.ranked(source)
    rows = rows[:200] if options.smoke else rows
    tokenizer = real.tokenizer_of(rows, 512 if options.smoke else config_of(options).vocab_size)
    found = real.pairs(rows, tokenizer, 8 * size.prompts, 4 * size.prompt + 2)
    kept = [pair for pair in found if len(pair.prompt_ids) <= size.prompt][: size.prompts]
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": pair.prompt}) + "\n" for pair in kept), encoding="utf-8")
    return tokenizer, kept, file


def measure(options: Options) -> Result:
    """Tokens of answers per second: of whole steps, of writing them, and of training on them."""
    size, source = TINY if options.smoke else Size(), real.file()
    if source is None:
        why = f"{real.FILE} is not on this machine; name it in {real.PLACE}"
        return Result((Table("GRPO, whole step", "tokens of answers", (Row("jaxpo", missing=why),)),))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tokenizer, kept, file = prompts_from(source, size, options, folder)
        config = replace(config_of(options), vocab_size=tokenizer.vocab_size)
        params = params_of(config)
        runs: dict[str, Any] = {"jaxpo": Ours(size, config, params, tokenizer, file, folder)}
        absent: tuple[Row, ...] = ()
        if options.peers and has("trl"):
            runs["TRL"] = theirs(size, config, params, tokenizer, kept, folder, options)
        elif options.peers:
            absent = (Row("TRL", missing="trl is not installed"),)
        say("  GRPO")
        times = interleaved(runs, replace(options, repeats=min(options.repeats, REPEATS)))
        tables = tuple(table(title, part, runs, times, absent) for title, part in PARTS.items())
        used = runs["jaxpo"].used
    prompt = sum(len(pair.prompt_ids) for pair in kept) / len(kept)
    notes = (
        f"Shape: {about(config)}; {size.prompts} prompts of {prompt:.0f} tokens on average, {size.n} answers of at "
        f"most {size.answer} tokens to each, GRPO without a reference, AdamW, clipping.",
        f"jaxpo packs answers with their prompts into rows that {used:.0%} fill (microbatches that stay empty are not "
        "computed), and writes every group to its ledger; TRL pads them to the longest. Rewards cost nothing.",
        "Repetitions draw other answers: amounts are means over them.",
    )
    return Result(tables, {}, notes)


def theirs(
    size: Size, config: Any, params: Any, tokenizer: Tokenizer, kept: Any, folder: Path, options: Options
) -> Trl:
    """TRL's trainer on the same prompts and weights."""
    names = folder / "tokenizer"
    tokenizer.save(names)
    return Trl(
        in_transformers(params, config, options.threads),
        names,
        [(pair.prompt, pair.prompt_ids) for pair in kept],
        folder=folder / "trl",
        learning_rate=RATE,
        n=size.n,
        longest=size.answer,
        reward=different,
    )


def table(title: str, part: str | None, runs: Any, times: Any, absent: tuple[Row, ...]) -> Table:
    """One part of the step; the round that warms up is left out."""
    rows = []
    for name, run in runs.items():
        tokens = sum(run.written[1:]) / len(run.written[1:])
        wall = times[name].wall if part is None else tuple(run.parts[part][1:])
        rows.append(Row(name, tokens, wall, times[name].cpu if part is None else ()))
    return Table(f"GRPO, {title}", "tokens of answers", (*rows, *absent))


WORK = Work("W14", "a step of GRPO", GOAL, measure)
