"""W10: what a token of a training step costs as rows grow from 512 to 8,192 positions, the tokens of a step constant.

Rows of short documents should cost the same whatever their length: a document attends to itself alone. One document per
row costs what attention's operations say, which grow with its length.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measure import interleaved
from benchmarks.models import NARROW, TINY
from benchmarks.subject import about, tokens_of
from benchmarks.train_sides import Ours, packed
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.train.flops import training_flops_per_token

ROUNDS = 9
"""At least so many are taken after the one that warms up."""
LENGTHS, TOKENS = (512, 1024, 2048, 4096, 8192), 8192
SHORT = (192, 320, 256, 256)
"""Lengths of the documents of a packed row, in turn."""
TINY_LENGTHS, TINY_TOKENS, TINY_SHORT = (16, 32), 32, (6, 10, 8, 8)
FLAT = 1.3


def measure(options: Options) -> Result:
    """Both kinds of rows at every length, all of them in turn."""
    config = TINY if options.smoke else NARROW
    lengths, tokens = (TINY_LENGTHS, TINY_TOKENS) if options.smoke else (LENGTHS, TOKENS)
    documents = TINY_SHORT if options.smoke else SHORT
    runs = {}
    for length in lengths:
        ids = tokens_of(config, tokens // length, length)
        runs[f"short {length}"] = step_on(config, short(ids, documents))
        runs[f"long {length}"] = step_on(config, packed(ids))
    flops = {name: step.flops() for name, step in runs.items()}
    times = interleaved(runs, options.at_least(ROUNDS))

    def table(kind: str, title: str) -> Table:
        found = [(length, times[f"{kind} {length}"]) for length in lengths]
        rows = [Row(f"jaxpo, {length:,} positions", tokens, each.wall, each.cpu) for length, each in found]
        return Table(title, "tokens", tuple(rows))

    mean = sum(documents) // len(documents)
    tables = (
        table("short", f"packed documents of {mean} tokens on average"),
        table("long", "one document per row"),
    )
    # The least: a round in which the machine does something else besides says nothing of a row's length.
    cost = {name: min(each.cpu) for name, each in times.items()}
    notes = (
        f"The model: {about(config)}; {tokens:,} tokens per step; {len(times[f'long {lengths[0]}'].cpu)} rounds.",
        flatness(cost, lengths),
        law(cost, flops, tokens * training_flops_per_token(config, 0), lengths),
    )
    return Result(tables, notes=notes)


def step_on(config: LFM2Config, batch: Batch) -> Ours:
    """A training step on this batch."""
    step = Ours(config, batch.tokens)
    step.batch = batch
    return step


def short(tokens: np.ndarray, documents: tuple[int, ...]) -> Batch:
    """Rows full of short documents."""
    rows, length = tokens.shape
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(documents[len(sizes) % len(documents)])
    if sum(sizes) != length:
        raise ValueError(f"documents of {documents} do not fill rows of {length}")
    slots = len(sizes)
    row = np.repeat(np.arange(1, slots + 1, dtype=np.int32), sizes)
    position = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    whole = packed(tokens)
    return whole.replace(
        segment_ids=np.tile(row, (rows, 1)),
        positions=np.tile(position, (rows, 1)),
        masks={"completion": np.tile(position > 0, (rows, 1))},
        roles={"text": np.tile(np.arange(slots, dtype=np.int32), rows)},
        example_id=np.arange(rows * slots, dtype=np.int32),
        slots=slots,
        max_segment=max(documents),
    )


def flatness(cost: dict[str, float], lengths: tuple[int, ...]) -> str:
    """How much more a token costs in the dearest rows than in the cheapest."""
    of = {length: cost[f"short {length}"] for length in lengths}
    ratio = max(of.values()) / min(of.values())
    shown = ", ".join(f"{length:,}: {each / of[lengths[0]]:.2f}" for length, each in of.items())
    verdict = "flat within 30%" if ratio <= FLAT else "not flat within 30%"
    return f"Least processor time per token of packed documents relative to {lengths[0]} positions: {shown}; {verdict}."


def law(cost: dict[str, float], flops: dict[str, float], linear: float, lengths: tuple[int, ...]) -> str:
    """One document per row: measured beside what the step's products predict, and attention's share of them.

    Args:
      cost, flops: of a step, by the names of the contestants.
      linear: operations of a step without those between positions.
    """
    first = f"long {lengths[0]}"
    shown = "; ".join(
        f"{length:,}: {cost[name] / cost[first]:.2f} measured, {flops[name] / flops[first]:.2f} predicted "
        f"({1 - linear / flops[name]:.0%} between positions)"
        for length in lengths
        for name in (f"long {length}",)
    )
    return (
        f"Least processor time per token of one document per row relative to {lengths[0]} positions, beside the "
        f"products that the step computes: {shown}."
    )


WORK = Work(
    key="W10",
    title="Cost of a token by the length of rows",
    goal="packed short documents flat within 30% on a CPU; one long document as the operations of attention say",
    measure=measure,
)
