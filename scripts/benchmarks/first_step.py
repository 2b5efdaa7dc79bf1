"""The first step of a process that finds nothing compiled, beside W1's later ones."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.ceilings import has
from benchmarks.measure import ChildFailed, Parts, alone, say
from benchmarks.report import size
from benchmarks.subject import config_of, size_of, tokens_of
from benchmarks.train_sides import COMPILED, EAGER, JAXPO, Ours, Theirs
from benchmarks.work import Options, Row, Table
from jaxpo.models.lfm2.config import LFM2Config

MODULE = "benchmarks.first_step"
LIMIT = 300.0
ROUNDS = 3
"""At most. torch.compile takes its first step once: after that its code is in the cache, for W1's later steps."""
FIRST, NEXT = ("trace", "lower", "compile", "run"), "the next run"
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


@dataclass(frozen=True)
class First:
    """Every contestant's first step; what its memory costs; where jaxpo's time goes."""

    table: Table
    ceilings: dict[str, tuple[float, str]]
    note: str


def first_steps(options: Options) -> First:
    """Each in a process of its own, jaxpo's and the eager one in turn; the row of who does not run here says why."""
    kept, missing = json.dumps(dataclasses.asdict(options)), _missing(options)
    mine, touched, eager = [], [], []
    for i in range(options.at_most(ROUNDS).repeats):
        mine.append(_alone(options, "ours", kept))
        touched.append(_alone(options, "touch", str(mine[-1]["temporary_bytes"])))
        if options.peers and EAGER not in missing:
            eager.append(_alone(options, "theirs", kept, ""))
        say(f"  first step {i + 1}")
    rows = [_row(JAXPO, mine)]
    if options.peers:
        made = {EAGER: lambda: _row(EAGER, eager), COMPILED: lambda: _compiled(options, kept)}
        rows += [Row(name, missing=missing[name]) if name in missing else made[name]() for name in made]
    memory = f"{size(mine[0]['temporary_bytes'])} of memory taken and written for the first time"
    parts = [run["parts"] for run in mine]
    said = ", ".join(f"{part} {median(run[part][0] for run in parts):.1f} s" for part in (*FIRST, NEXT))
    table = Table("the first step of a process, nothing compiled before", "step", tuple(rows))
    return First(table, {memory: (median(touched), "s")}, f"jaxpo's first step, by parts: {said}.")


def ours(options: str) -> dict[str, Any]:
    """Seconds `{part: [elapsed, of the processor]}` of jaxpo's first step here, and the bytes of its temporaries."""
    _, config, tokens = _subject(options)
    side, parts = Ours(config, tokens), Parts()
    batch = side.assembly.put(side.batch)
    traced = parts.timed("trace", lambda: side.assembly.step.trace(side.state, {}, batch))
    lowered = parts.timed("lower", traced.lower)
    program = parts.timed("compile", lowered.compile)
    state, _ = parts.timed("run", lambda: jax.block_until_ready(program(side.state, {}, batch)))
    parts.timed(NEXT, lambda: jax.block_until_ready(program(state, {}, batch)))
    return {"parts": parts, "temporary_bytes": program.memory_analysis().temp_size_in_bytes}


def theirs(options: str, compiled: str) -> dict[str, Any]:
    """The same of PyTorch's step on transformers' model, which has one part."""
    given, config, tokens = _subject(options)
    side, parts = Theirs(config, tokens, given.threads, compiled=bool(compiled)), Parts()
    parts.timed("run", side)
    return {"parts": parts}


def touch(count: str) -> float:
    """Seconds in which `count` bytes of memory are taken and written."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    start = time.perf_counter()
    ctypes.memset(library.malloc(int(count)), 1, int(count))
    return time.perf_counter() - start


def _subject(options: str) -> tuple[Options, LFM2Config, np.ndarray]:
    given = Options(**json.loads(options))
    config = config_of(given)
    return given, config, tokens_of(config, *size_of(given))


def _alone(options: Options, function: str, *args: str) -> Any:
    return alone(MODULE, function, *args, environment=NO_CACHE, timeout=LIMIT, threads=options.threads).result


def _missing(options: Options) -> dict[str, str]:
    if not (has("torch") and has("transformers")):
        return dict.fromkeys((EAGER, COMPILED), "torch and transformers are not installed")
    return {COMPILED: "a smoke run does not wait for the compiler"} if options.smoke else {}


def _compiled(options: Options, kept: str) -> Row:
    try:
        return _row(COMPILED, [_alone(options, "theirs", kept, "compiled")])
    except ChildFailed as error:
        return Row(COMPILED, missing=f"torch.compile: {error}")


def _row(name: str, runs: Sequence[dict[str, Any]]) -> Row:
    found = [[run["parts"][part] for part in FIRST if part in run["parts"]] for run in runs]
    return Row(name, 1.0, *(tuple(sum(part[i] for part in parts) for parts in found) for i in (0, 1)))
