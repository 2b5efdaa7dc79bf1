"""W11: a training step of every preference method beside DPO's, on the same responses in the shape that each reads.

Four responses to each prompt are up to four pairs, one list, labelled rows, one tree of steps, or one list of items.
Every method takes a step on rows of the same number and length, so that what differs is what it does with them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from comparison.data import Prompt, write_files
from comparison.experiment import Bench, Trainer, compared, preference_stage
from comparison.settings import Settings

from benchmarks.data_pipeline import synthetic_texts
from benchmarks.measure import Times, interleaved, say
from benchmarks.models import NARROW
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.recipe.kinds import networks_of
from jaxpo.train.init import init_state
from jaxpo.train.jaxpr_flops import count_flops

DPO, ONLINE = "dpo", "dpo, reference online"
FEW = ("simpo", "tdpo1", "pro_ranking")
"""The methods of a smoke run: without a reference, with the whole vocabulary, over lists."""
TAIL = 1.25
"""Methods that take longer than DPO by this factor are explained one by one."""
MORE = 1.1
"""So are those whose step computes more products than DPO's by this one."""
BUDGET, ROUNDS = 330.0, 9
"""Seconds after which no further method is begun (most of them go into compiling), unless all are asked for; and the
least number of rounds of each."""
SETTINGS = Settings(rows=8, row_length=256, max_length=120, response_tokens=40, prompt_tokens=20, budget_tokens=8192)
SMALL_SETTINGS = replace(SETTINGS, rows=4, row_length=128)
MODEL = replace(NARROW, initializer_range=0.05)
SMALL = replace(
    MODEL, vocab_size=512, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1
)


@dataclass(frozen=True)
class Contestant:
    """A method's step on one batch, taken again and again.

    Attributes:
      why: what it does beyond DPO's.
      used: share of the batch's positions that hold a token.
      flops: of the step's products.
    """

    trainer: Trainer
    frozen: dict[str, Any]
    batch: Any
    state: list[Any]
    why: str
    used: float
    flops: float

    def __call__(self) -> Any:
        # The step donates the state, so what it returns takes its place.
        self.state[0], metrics = self.trainer.assembly.step(self.state[0], self.frozen, self.batch)
        return metrics


def measure(options: Options) -> Result:
    """Every method in turn with DPO, whose references were recorded before."""
    names = [ONLINE, *(FEW if options.smoke else (n for n in compared() if n != DPO))]
    rounds = options.at_least(ROUNDS)
    found: dict[str, Measured] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jaxpo-bench-") as folder:
        bench = open_bench(Path(folder), options)
        dpo = contestant(bench, DPO)
        for i, name in enumerate(names):
            if (passed := time.perf_counter() - began) > BUDGET and not options.full:
                break
            say(f"  {name}, {i + 1} of {len(names)}, after {passed:.0f} s")
            other = contestant(bench, DPO if name == ONLINE else name, online=name == ONLINE)
            times = interleaved({DPO: dpo, name: other}, rounds)
            found[name] = Measured(times[DPO], times[name], other.flops / dpo.flops, other.used, other.why)
            if other.trainer.assembly.step is not dpo.trainer.assembly.step:
                other.trainer.assembly.step.clear_cache()
        slots = bench.settings.rows * bench.settings.row_length
    return Result((table(found, slots, names[len(found) :]),), notes=notes(found, dpo.used))


@dataclass(frozen=True)
class Measured:
    """What was found of a method: its times and DPO's in the same rounds, and its step's products over DPO's.

    Attributes:
      used, why: as of the contestant.
    """

    dpo: Times
    mine: Times
    flops: float
    used: float
    why: str

    @property
    def ratio(self) -> float:
        """Processor time over DPO's, the median over the rounds."""
        return median(m / d for m, d in zip(self.mine.cpu, self.dpo.cpu, strict=True))


def table(found: dict[str, Measured], slots: int, late: Sequence[str] = ()) -> Table:
    """Methods by their time relative to DPO's in the same rounds; DPO's own row has the rounds of the first of them.

    Every round's seconds are scaled by DPO's in that round, so that the rows can be compared with each other.

    Args:
      late: methods that were not begun.
    """
    reference = found[ONLINE].dpo
    typical = Times((median(reference.wall),), (median(reference.cpu),))
    rows = [Row("jaxpo, dpo", slots, reference.wall, reference.cpu)]
    for name in sorted(found, key=lambda name: found[name].ratio):
        mine, dpo = found[name].mine, found[name].dpo
        wall = tuple(typical.wall[0] * m / d for m, d in zip(mine.wall, dpo.wall, strict=True))
        cpu = tuple(typical.cpu[0] * m / d for m, d in zip(mine.cpu, dpo.cpu, strict=True))
        rows.append(Row(f"jaxpo, {name}", slots, wall, cpu))
    rows += [Row(f"jaxpo, {name}", missing=f"not begun within {BUDGET:.0f} s (--full takes all)") for name in late]
    return Table("a training step, scaled by that of DPO in the same rounds", "positions", tuple(rows))


def notes(found: dict[str, Measured], used_by_dpo: float) -> tuple[str, ...]:
    """The tail, one by one, and every method whose step computes more products than DPO's."""
    order = sorted(found, key=lambda name: -found[name].ratio)
    tail = [name for name in order if found[name].ratio > TAIL or found[name].flops > MORE]
    rest = [found[name].ratio for name in order if name not in tail]
    said = [
        f"{name}: {found[name].ratio:.2f} times DPO's processor time, {found[name].flops:.2f} times its products; "
        f"{found[name].why or 'nothing named'}"
        for name in tail
    ]
    between = f" between {min(rest):.2f} and {max(rest):.2f} times" if rest else ""
    used = [each.used for each in found.values()]
    others = f"{min(used):.0%} to {max(used):.0%}"
    fills = f"{used_by_dpo:.0%} of the positions hold a token for DPO, {others} for the others."
    small = (
        f"{len(found[ONLINE].mine.cpu)} rounds of each. The model is small, so that what is done per token and per "
        "example beside the network weighs more than usual."
    )
    return (f"{len(rest)} methods take{between} DPO's processor time.", *said, fills, small)


def contestant(bench: Bench, name: str, *, online: bool = False) -> Contestant:
    """A method's compiled step, its first state, and its first batch on the device."""
    stage = preference_stage(bench, name, online=online)
    trainer = Trainer(bench, stage)
    start = {"model": jax.tree.map(lambda x: x.copy(), bench.sft)}
    assembly, loader, frozen = trainer.assembly, trainer._loader(0), {}
    fresh = {n: init_params(t, jax.random.key(0)) for n, t in assembly.tables.items() if n not in start}
    for network in networks_of(stage):
        if network.recorded:
            loader = trainer._with_recorded(bench.sft, network.name, loader)
        else:
            frozen[network.name] = bench.sft
    state = init_state(assembly.abstract, {**start, **fresh}, assembly.optimizer, assembly.objective, 0)
    batch = loader.batch(0)
    used = float(np.count_nonzero(batch.segment_ids)) / batch.segment_ids.size
    on_device = assembly.put(batch)
    flops = count_flops(assembly.step, state, frozen, on_device).flops
    return Contestant(trainer, frozen, on_device, [state], "; ".join(reasons(assembly, stage, batch)), used, flops)


def reasons(assembly: Any, stage: Any, batch: Any) -> Iterator[str]:
    """What a step does that DPO's with recorded references does not."""
    needs, objective = assembly.objective.needs, assembly.objective
    for network in networks_of(stage):
        if not network.recorded:
            of = dict(needs.networks).get(network.name)
            yield f"runs the {network.name} in every step" + (
                " and a term over the whole vocabulary of both models, which cannot be recorded"
                if of == "vocab"
                else ""
            )
    if objective.coupled:
        yield "its loss mixes the examples of a step"
    if needs.extra:
        yield f"trains {', '.join(needs.extra)} besides"
    candidates = [table.shape[1] for name, table in batch.roles.items() if table.ndim == 2]
    if candidates:
        yield f"lists of up to {max(candidates)} responses"
    if needs.per_token:
        yield f"reads marks of every token ({', '.join(needs.per_token)})"


def open_bench(folder: Path, options: Options) -> Bench:
    """Texts, tokenizer and a model that was not trained: what a step takes does not depend on it."""
    settings, config = (SMALL_SETTINGS, SMALL) if options.smoke else (SETTINGS, MODEL)
    texts = synthetic_texts(400)
    train_tokenizer(texts, config.vocab_size).save(folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    prompts = [prompt_of(i, texts, tokenizer, settings) for i in range(24 if options.smoke else 160)]
    write_files(folder / "files", prompts, list(range(len(prompts))), settings)
    params = init_params(param_table(config), jax.random.key(0))
    return Bench(folder, settings, config, tokenizer, prompts, [], params, {})


def prompt_of(number: int, texts: list[str], tokenizer: Tokenizer, settings: Settings) -> Prompt:
    """A prompt and four responses of other texts, with scores that fall from one to the next."""
    rng = np.random.default_rng(number)
    asked, *answers = (texts[i] for i in rng.choice(len(texts), 5, replace=False))
    prompt = tokenizer.decode(tokenizer.encode(asked)[: settings.prompt_tokens])
    kept = [tokenizer.decode(tokenizer.encode(a)[: int(rng.integers(20, settings.response_tokens))]) for a in answers]
    lengths = tuple(len(tokenizer.encode(text)) for text in kept)
    return Prompt(number, f"{prompt}\n", tuple(kept), lengths, (0.9, 0.6, 0.4, 0.1))


WORK = Work(
    key="W11",
    title="Every preference method beside DPO",
    goal="each method's step relative to DPO's on the same rows; the tail named and explained",
    measure=measure,
)
