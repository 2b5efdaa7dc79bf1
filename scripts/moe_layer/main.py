"""The command: time the contestants in turn, check that they compute the same, write the tables."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import jax
import numpy as np

from moe_layer.contestants import Run, Shape, every_expert, grouped, has_transformers, one_dense, transformers

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- bench_moe: begin -->", "<!-- bench_moe: end -->"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Times:
    """Seconds of each repetition: elapsed, and of the processor over all threads."""

    wall: list[float]
    cpu: list[float]


def measure(runs: Mapping[str, Run], repeats: int) -> dict[str, Times]:
    """Every contestant once per round, so that what else the machine does hits all alike; the first round warms up."""
    times = {name: Times([], []) for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(run())
            if i:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def contestants(shape: Shape, threads: int) -> dict[str, tuple[Run, Run]]:
    """All there are here, checked to agree with jaxpo's layer."""
    found = {
        "jaxpo, grouped": grouped(shape),
        "every expert on every token": every_expert(shape),
        "dense of the active width": one_dense(shape),
    }
    if has_transformers():
        for name in ("eager", "grouped_mm"):
            found[f"transformers, {name}"] = transformers(shape, name, threads)
    expected = np.asarray(found["jaxpo, grouped"][0]())
    for name, (forward, _) in found.items():
        if name != "dense of the active width":
            worst = np.abs(np.asarray(forward()) - expected).max() / np.abs(expected).max()
            if not worst < TOLERANCE:
                raise SystemExit(f"error: {name} computes something else (off by {worst:.1e})")
    return found


def milliseconds(values: Sequence[float]) -> str:
    return f"{1e3 * median(values):.1f} ({1e3 * min(values):.1f} to {1e3 * max(values):.1f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_of(runs: Mapping[str, tuple[Run, Run]], repeats: int) -> list[list[str]]:
    """Name, then forward and forward with gradients: elapsed and processor time."""
    forward = measure({name: run[0] for name, run in runs.items()}, repeats)
    backward = measure({name: run[1] for name, run in runs.items()}, repeats)
    return [
        [name, *(milliseconds(x) for t in (forward[name], backward[name]) for x in (t.wall, t.cpu))] for name in runs
    ]


HEAD = ("forward, ms", "processor", "with gradients, ms", "processor")


def document(shape: Shape, sizes: Sequence[int], repeats: int, threads: int) -> str:
    """All tables, with what they were measured on."""
    about = (
        f"{shape.tokens:,} tokens of width {shape.width}, {shape.experts} experts of width {shape.inner}, "
        f"top-{shape.k}, float32, {threads} thread{'s' * (threads > 1)}; medians of {repeats} interleaved repetitions "
        f"(smallest to largest). Processor time is over all threads."
    )
    compared = table(("layer", *HEAD), rows_of(contestants(shape, threads), repeats))
    parts = [about, compared]
    # Few tokens leave each of many experts with few rows for a whole matrix: flatness is a matter of both.
    for tokens in (shape.tokens, 8 * shape.tokens):
        growing = {str(e): grouped(replace(shape, experts=e, tokens=tokens)) for e in sizes}
        parts.append(f"More experts at the same top-k, {tokens:,} tokens:")
        parts.append(table(("experts", *HEAD), rows_of(growing, repeats)))
    return "\n\n".join(parts)


def written(text: str, tables: str) -> str:
    """The document with new tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main(argv: Sequence[str]) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench_moe", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny layer, written nowhere")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "moe.md")
    args = parser.parse_args(argv)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if args.smoke:
        print(document(Shape(32, 16, 12, 8, 2), (4, 8), 2, threads))
        return 0
    tables = document(Shape(), (8, 16, 32, 64), args.repeats, threads)
    args.out.write_text(written(args.out.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(tables)
    return 0
