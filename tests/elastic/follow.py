"""Whole runs that are stopped at a given step, and the examples that each of their steps was given.

As a program: `follow.py CONFIG NOTES STAGE STEP`, one process or those that the environment names; it stops after that
step of that stage (0: at the run's end), and notes the examples in NOTES, one file per process.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.config.serialise import from_jsonable
from jaxpo.sharding.multihost import start_processes
from jaxpo.stages import run as running
from jaxpo.stages import taking_steps

Note = dict[str, Any]
fit = taking_steps.fit


def follow(run: Any, notes: Path, stop_at: tuple[str, int] | None = None) -> int:
    """`execute(run)`, stopped after a step as a signal stops it; this process's examples are added to a file."""

    def followed(*, stage, put, stop, store, **rest):
        step = store.latest() or 0

        def noted(batch):
            nonlocal step
            step += 1
            ids = batch.example_id[batch.example_id >= 0].tolist()
            with file.open("a") as lines:
                lines.write(json.dumps({"stage": stage.name, "step": step, "ids": ids}) + "\n")
            return put(batch)

        stop.requested = lambda n: signal.SIGTERM if (stage.name, n) == stop_at else None
        return fit(stage=stage, put=noted, stop=stop, store=store, **rest)

    notes.mkdir(parents=True, exist_ok=True)
    file = notes / f"{jax.process_index()}.jsonl"
    taking_steps.fit = followed
    try:
        return running.execute(run)
    finally:
        taking_steps.fit = fit


def given(notes: Path, stage: str) -> list[list[int]]:
    """Examples of every step, over all processes in their order."""
    steps: dict[int, list[int]] = {}
    for file in sorted(notes.glob("*/*.jsonl"), key=lambda path: (path.parent.name, int(path.stem))):
        for note in map(json.loads, file.open()):
            if note["stage"] == stage:
                steps.setdefault(note["step"], []).extend(note["ids"])
    assert sorted(steps) == list(range(1, len(steps) + 1)), "no step was lost"
    return [steps[n] for n in sorted(steps)]


def assert_none_is_lost(steps: list[list[int]], examples: int) -> None:
    """Each epoch in turn holds every example once: the stream of ids is permutations, one after another."""
    stream = [i for step in steps for i in step]
    assert len(stream) > examples * 1.2, "the test is to see the second epoch"
    for first in range(0, len(stream), examples):
        epoch = stream[first : first + examples]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(examples))


def assert_alike(got: list[Note], expected: list[Note], rtol: float) -> None:
    """Two logs, less what their machines say: counts exactly, measurements to a tolerance."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        for name in ("stage", "step", "num_tokens", "epoch"):
            assert a[name] == b[name]
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in b:
                np.testing.assert_allclose(a[name], b[name], rtol=rtol, err_msg=f"{name} {b['stage']} {b['step']}")


def main(config: str, notes: str, stage: str, step: str) -> int:
    run = from_jsonable(json.loads(Path(config).read_text()))
    return follow(run, Path(notes), (stage, int(step)) if int(step) else None)


if __name__ == "__main__":
    start_processes()
    sys.exit(main(*sys.argv[1:]))
