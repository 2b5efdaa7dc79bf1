"""W14: a step of GRPO from prompts to new weights, beside TRL's GRPOTrainer that generates with transformers."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import online_reward
from benchmarks import pairs as real
from benchmarks.ceilings import has
from benchmarks.measure import interleaved
from benchmarks.online_trl import Trl, batch_of
from benchmarks.subject import about, config_of, in_transformers, params_of
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.config import Compute, Data, Online, Optimizer
from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.online.assemble import rollout_source
from jaxpo.online.batches import Trained
from jaxpo.online.rewards import FunctionReward
from jaxpo.online.source import RolloutSource
from jaxpo.online.writer import Asked
from jaxpo.recipe.kinds import prompts_of
from jaxpo.sampling.sampler import Sampler
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.train.init import init_state

RATE = 1e-6
TOLERANCE = 1e-2
SHARED, APART, TRL = "jaxpo", "jaxpo, a prompt for each answer", "TRL"


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a step.

    Attributes:
      prompts, group: groups, and answers of each.
      longest: tokens of a prompt.
      new: tokens of an answer.
      row: positions of a packed row of answers with a prompt each.
    """

    prompts: int = 8
    group: int = 8
    longest: int = 64
    new: int = 64
    row: int = 512


TINY = Size(prompts=2, group=2, longest=16, new=4, row=64)


def stage_of(file: Path, size: Size, *, shared: bool) -> Online:
    """The stage that a user would write: a row holds a group at its longest where its answers share a prompt."""
    length = size.longest + size.new
    together = size.longest + size.group * (size.new + 1)
    row = together if shared else size.row
    rows = -(-size.prompts * size.group // (row // length))
    parts = min(rows, 4)
    return Online(
        loss=GRPO(),
        reward_funcs=(FunctionReward(function=f"{online_reward.__file__}:even"),),
        data=Data(train=(str(file),), max_length=length, row_length=row, shuffle=False),
        optimizer=Optimizer(learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0),
        num_generations=size.group,
        prompts_per_step=size.prompts,
        max_completion_length=size.new,
        rows_per_step=-(-rows // parts) * parts,
        share_prompts=shared,
        gradient_accumulation_steps=parts,
        max_steps=1_000_000,
    )


class Ours:
    """jaxpo's online stage; a call is a step: answers, rewards, the ledger, packed rows, an update."""

    def __init__(self, stage: Online, config: LFM2Config, params: Any, tokenizer: Tokenizer, folder: Path):
        mesh, scorer = make_mesh({}, jax.devices()[:1]), make_scorer(config, Compute())
        data = prepare(
            stage.data.train,
            data=prompts_of(stage),
            tokenizer=tokenizer,
            purpose="prompts",
            cache_dir=folder / "tokens",
            log=lambda line: None,
        )
        self.stage = stage
        self.source: RolloutSource = rollout_source(
            stage,
            stage.loss,
            prompts=Loader(data, prompts_of(stage), seed=0, rows_per_step=stage.rows_per_step),
            held_out=None,
            folder=folder,
            seed=0,
            scorer=scorer,
            scorers={},
            networks=lambda state: {"policy": state.params},
            policy=lambda params: params["model"],
            network=lambda name: None,
            say=lambda line: None,
            show=lambda line: None,
            frozen={},
        )
        self.assembly = assemble(stage, self.source, scorer, mesh, {})
        self.begin(params)
        self.feed = self.source.open(0, stage.max_steps or 1)
        self.shares: list[dict[str, float]] = []

    def begin(self, params: Any) -> None:
        """Train from these weights, which stay as they are."""
        start, assembly = {"model": jax.tree.map(lambda x: x.copy(), params)}, self.assembly
        self.state = init_state(assembly.abstract, start, assembly.optimizer, assembly.objective, 0)

    def __call__(self) -> float:
        """A whole step; the length of its gradient."""
        norm = self.train(self.feed.next(self.state))
        self.shares.append(self.source.figures_of(self.feed.step * self.stage.rows_per_step))
        return norm

    def generate(self) -> int:
        """Answers alone, by the weights of the moment; how many tokens."""
        maker, stage = self.source.maker, self.stage
        maker.writer.use(self.source.policy(self.state.params), maker.at_once)
        asked = [Asked(i, i, maker.prompts.at(i)) for i in range(stage.prompts_per_step)]
        groups = maker.writer.write(asked, stage.num_generations, Sampler(), stage.max_completion_length, "")
        return sum(len(answer.tokens) for group in groups for answer in group.answers)

    def train(self, batch: Batch) -> float:
        """The training step on a batch that is there already."""
        self.state, metrics = self.assembly.step(self.state, {}, self.assembly.put(batch))
        return float(metrics["grad_norm"].value())

    def answers(self) -> list[Trained]:
        """Those that the step before trained on."""
        return self.feed._slices[0]


def of_batch(ours: Ours, answers: list[Trained]) -> Batch:
    """Answers in another's rows."""
    from jaxpo.online.batches import batch_of as packed

    return packed(answers, ours.source.layout, ours.source.per_token, ours.source.columns)


def prompts_in(rows: list[dict[str, Any]], tokenizer: Tokenizer, size: Size) -> list[str]:
    """Texts of real prompts, cut so that they have from a quarter to all of the tokens that a prompt may have."""
    found: list[str] = []
    for row in rows:
        ids = tokenizer.encode(row["prompt"])
        # A cut text may have a token more when it is encoded again, and BOS is one.
        text = tokenizer.decode(ids[: size.longest - 3])
        if size.longest // 4 <= len(tokenizer.encode(text)) < size.longest:
            found.append(text)
    return found


def measure(options: Options) -> Result:
    """Whole steps, and their parts alone."""
    source, size = real.file(), TINY if options.smoke else Size()
    if source is None:
        why = f"{real.FILE} is not on this machine; name it in {real.PLACE}"
        return Result((Table("a step of GRPO", "answers", (Row(SHARED, missing=why),)),))
    with tempfile.TemporaryDirectory() as folder:
        return _measured(options, source, size, Path(folder))


def _measured(options: Options, source: Path, size: Size, folder: Path) -> Result:
    rows, config = real.ranked(source), config_of(options)
    tokenizer = real.tokenizer_of(rows[:200] if options.smoke else rows, 512 if options.smoke else config.vocab_size)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    params, file = params_of(config), folder / "prompts.jsonl"
    prompts = prompts_in(rows, tokenizer, size)[: size.prompts]
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    ours, apart = (
        Ours(stage_of(file, size, shared=shared), config, params, tokenizer, folder / name)
        for name, shared in (("shared", True), ("apart", False))
    )
    peer = _peer(options, config, params, tokenizer, prompts, size, folder) if options.peers and has("trl") else None
    ours()
    answers = ours.answers()
    ours.begin(params)  # the gradients of those answers are compared at the weights that wrote them
    batches = {SHARED: of_batch(ours, answers), APART: of_batch(apart, answers)}
    trains: dict[str, Callable[[], Any]] = {
        SHARED: lambda: ours.train(batches[SHARED]),
        APART: lambda: apart.train(batches[APART]),
    }
    wholes: dict[str, Callable[[], Any]] = {SHARED: ours}
    writes: dict[str, Callable[[], Any]] = {SHARED: ours.generate}
    if peer is not None:
        advantages = [float(answer.per_token["advantages"][0]) for answer in answers]
        kept = batch_of([a.prompt for a in answers], [a.tokens for a in answers], advantages)
        trains[TRL], wholes[TRL], writes[TRL] = lambda: peer.train(dict(kept)), peer, peer.generate
    _agree({name: run() for name, run in trains.items()})
    ours.shares.clear()
    count = size.prompts * size.group
    useful = sum(len(a.prompt) + len(a.tokens) for a in answers)
    tables = (
        _table("a whole step", "answers", count, wholes, options),
        _table("generation alone", "tokens", count * size.new, writes, options),
        _table("training alone", "useful tokens", useful, trains, options),
    )
    lengths = [len(a.prompt) for a in answers]
    longest = max(lengths) + max(len(a.tokens) for a in answers)
    positions = {name: int(np.any(b.segment_ids > 0, axis=1).sum()) * b.tokens.shape[1] for name, b in batches.items()}
    notes = (
        f"Shape: {about(config)}; AdamW with clipping, no reference, nothing filtered in sampling.",
        f"{size.prompts} real prompts of {min(lengths)} to {max(lengths)} tokens, {size.group} answers of {size.new} "
        f"tokens to each: {useful:,} useful tokens, prompts counted with each answer. Behind one copy of their prompt "
        f"they take {positions[SHARED]:,} positions of packed rows, with a prompt each {positions[APART]:,}, and TRL "
        f"pads to {len(answers) * longest:,}.",
        _shares(ours, tables[0]),
        "TRL by its trainer's own `_generate_and_score_completions`, with transformers, and its training step, without "
        f"gradient checkpointing; checked: on the same answers the gradients' lengths agree within {TOLERANCE:.0%}.",
    )
    return Result(tables, {}, notes)


def _peer(
    options: Options,
    config: LFM2Config,
    params: Any,
    tokenizer: Tokenizer,
    prompts: list[str],
    size: Size,
    folder: Path,
) -> Trl:
    from jaxpo.convert.hf import export_hf

    export_hf(params, config, folder / "hf", tokenizer=tokenizer, verify=False)
    model = in_transformers(params, config, options.threads)
    how = {"learning_rate": RATE, "group": size.group, "new": size.new}
    return Trl(model, folder / "hf", prompts, online_reward.even, folder / "trl", **how)


def _table(title: str, unit: str, amount: float, runs: Mapping[str, Any], options: Options) -> Table:
    times = interleaved(runs, options)
    rows = tuple(Row(name, amount, t.wall, t.cpu) for name, t in times.items())
    absent = (Row(TRL, missing="trl is not installed"),) if options.peers and TRL not in runs else ()
    return Table(title, unit, rows + absent)


def _agree(norms: Mapping[str, float]) -> None:
    """Whether all have the same gradient.

    Raises:
      ValueError: they have not.
    """
    if max(norms.values()) - min(norms.values()) > TOLERANCE * max(norms.values()):
        raise ValueError(f"the gradients of the same answers differ in length: {norms}")


def _shares(ours: Ours, whole: Table) -> str:
    """Where the time of a step of jaxpo's goes."""
    seconds = sum(whole.rows[0].wall)
    measured = ours.shares[-len(whole.rows[0].wall) :]
    parts = {name: sum(f[f"rollouts/{name}_seconds"] for f in measured) / seconds for name in ("writing", "rewards")}
    rest = 1 - sum(parts.values())
    return (
        f"Of a step of jaxpo's writing takes {parts['writing']:.0%}, rewards {parts['rewards']:.1%}, and training with "
        f"the assembly of its rows {rest:.0%}."
    )


WORK = Work(
    key="W14",
    title="a step of GRPO, from prompts to new weights",
    goal="generation three times, the whole step twice as fast as TRL's GRPOTrainer",
    measure=measure,
)
