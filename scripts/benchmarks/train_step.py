"""W1: a training step, beside transformers' model trained in PyTorch, eager and compiled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.ceilings import best_products, described
from benchmarks.first_step import first_steps
from benchmarks.measure import interleaved, say
from benchmarks.subject import about, config_of, size_of, tokens_of, training_products
from benchmarks.train_sides import COMPILED, JAXPO, Ours, Theirs
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.train.flops import training_flops_per_token

Run = Callable[[], Any]
TOLERANCE = 1e-4
TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def contestants(config: LFM2Config, tokens: np.ndarray, options: Options, peers: Sequence[str]) -> dict[str, Run]:
    """jaxpo's step, and of these peers."""
    theirs = {name: Theirs(config, tokens, options.threads, compiled=name == COMPILED) for name in peers}
    return {JAXPO: Ours(config, tokens), **theirs}


def agree(runs: dict[str, Run]) -> dict[str, float]:
    """The first three losses of every contestant, which must be jaxpo's: the first to rounding, two after updates.

    Raises:
      ValueError: somebody trains something else.
    """
    losses = {name: [run() for _ in range(3)] for name, run in runs.items()}
    for name, found in losses.items():
        worst = max(abs(a - b) / abs(b) for a, b in zip(found, losses[JAXPO], strict=True))
        if not worst < TOLERANCE:
            raise ValueError(f"{name} trains something else: losses {found}, jaxpo's {losses[JAXPO]}")
    return {name: found[-1] for name, found in losses.items()}


def measure(options: Options) -> Result:
    """Tokens per second of a whole step, beside what the step's products alone would allow; and the first step."""
    config, (rows, length) = config_of(options), size_of(options)
    tokens = tokens_of(config, rows, length)
    with tempfile.TemporaryDirectory() as cache:
        os.environ[TORCH_CACHE] = cache  # what the first steps compile, the later ones find, and nothing of before
        first = first_steps(options)
        runs = contestants(config, tokens, options, [r.name for r in first.table.rows if r.name != JAXPO and r.wall])
        agree(runs)
        say("  all train the same")
        products = best_products(training_products(config, rows * length), peers=options.peers)
        times = interleaved(runs, options)
    ceiling = max(products.values()) / training_flops_per_token(config, (length + 1) / 2)
    measured = [Row(name, rows * length, t.wall, t.cpu, ceiling=ceiling) for name, t in times.items()]
    absent = [row for row in first.table.rows if row.missing]
    table = Table(f"training step, batch {rows} x {length}", "tokens", (*measured, *absent))
    notes = (
        f"Shape: {about(config)}; AdamW with clipping; the losses of three steps agree within {TOLERANCE:.0e}.",
        "The ceiling: the step's matrix products and attention at the speed of the faster library's plain products.",
        first.note,
    )
    return Result((table, first.table), described(products) | first.ceilings, notes)


WORK = Work(
    "W1",
    "a training step",
    "at least as fast as transformers, in wall and in processor time; the first step in 10 s",
    measure,
)
