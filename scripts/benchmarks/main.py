"""The command: find the benchmarks of this folder, run each in a process of its own, show and keep what it found."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.measure import ROOT, ChildFailed, alone, say
from benchmarks.work import Options, Work
from jaxpo.cli.allocator import TUNABLES, reason_against, tunables

HERE = Path(__file__).parent
DOCS = ROOT / "docs" / "bench"
MARK = "\nWORK = Work("


def modules(folder: Path = HERE, package: str = "benchmarks") -> list[str]:
    """Files of the folder that hold a `WORK`, as modules."""
    files = [path for path in sorted(folder.glob("*.py")) if MARK in path.read_text(encoding="utf-8")]
    return [f"{package}.{path.stem}" for path in files]


def works(names: Sequence[str]) -> dict[str, tuple[str, Work]]:
    """`key -> (module, work)` in the order of the keys' numbers."""
    found = [(name, importlib.import_module(name).WORK) for name in names]
    return {work.key: (name, work) for name, work in sorted(found, key=lambda pair: int(pair[1].key[1:]))}


def run_one(module: str, options: str) -> Any:
    """What the child of a benchmark does: measure, and give the result as JSON can say it."""
    found = importlib.import_module(module).WORK.measure(Options(**json.loads(options)))
    return dataclasses.asdict(found)


def with_allocator() -> dict[str, str]:
    """What a process that measures is started with, as `jaxpo run` starts itself anew with it."""
    return {} if reason_against(os.environ) is not None else {TUNABLES: tunables(os.environ)}


def measured(module: str, work: Work, options: Options) -> report.Entry:
    """One benchmark in a process of its own.

    Raises:
      ChildFailed: it ended without a result.
    """
    about: dict[str, Any] = {"machine": machine.facts(), **dataclasses.asdict(options)}
    call = alone(
        "benchmarks.main",
        "run_one",
        module,
        json.dumps(dataclasses.asdict(options)),
        environment=with_allocator(),
        threads=options.threads,
    )
    about |= {"seconds": call.wall, "processor_seconds": call.cpu, "peak_bytes": call.peak_bytes}
    stored = {"key": work.key, "title": work.title, "goal": work.goal, **about, "result": call.result}
    return report.entry(work.key, work.title, work.goal, report.result_of(stored), about)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure jaxpo beside its peers.")
    parser.add_argument("works", nargs="*", metavar="WORK", help="W1, W2, ...; all when none is named")
    repeats = "interleaved repetitions (default: 5); of what takes long at most 2 or 3, of what is short at least 9"
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help=repeats)
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help=f"of each contestant (here: {cores})")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one repetition: do they run")
    parser.add_argument("--full", action="store_true", help="goals that take minutes: W5's shape, W11's methods")
    parser.add_argument("--no-peers", action="store_true", help="jaxpo and the ceilings alone")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/bench")
    parser.add_argument("--out", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.repeats < 1 or not 1 <= options.threads <= cores:
        parser.error(f"--repeats must be at least 1, and --threads between 1 and {cores}, the cores that are here")
    if options.smoke and options.full:
        parser.error("--smoke and --full contradict each other")
    if options.smoke and options.write:
        parser.error("--smoke measures nothing worth keeping: leave out --write")
    return options


def main(argv: Sequence[str], names: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a benchmark failed; the others are measured and kept all the same."""
    asked = arguments(argv)
    found = works(modules() if names is None else names)
    unknown = [key for key in asked.works if key not in found]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(found)}")
        return 2
    options = Options(1 if asked.smoke else asked.repeats, asked.threads, asked.smoke, not asked.no_peers, asked.full)
    failed = {}
    for key in asked.works or found:
        module, work = found[key]
        say(f"{key}: {work.title}")
        try:
            entry = measured(module, work, options)
        except ChildFailed as error:
            failed[key] = str(error)
            say(f"{key} failed: {error}")
            continue
        print(report.section(entry) + "\n", flush=True)
        if asked.write:
            report.write(asked.out, entry)
    if asked.write:
        say(f"kept in {asked.out}")
    return 1 if failed else 0
