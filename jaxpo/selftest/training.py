"""A fine-tuning of a minute model by the recipe `sft`: it learns, resumes, and what it leaves can be read again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jax
import numpy as np

from jaxpo.config import Run
from jaxpo.convert.model_io import load_model
from jaxpo.recipe.overrides import load_run, resolve_run
from jaxpo.selftest import require
from jaxpo.stages.run import execute
from jaxpo.train.metrics import read_metrics

STEPS = 6
NAMES = "Ann Ben Cleo Dan Eva Finn Gus Hal".split()  # noqa: SIM905
SHAPE = (
    *("--model.hidden-size", "32", "--model.intermediate-size", "64", "--model.num-attention-heads", "2"),
    *("--model.num-key-value-heads", "1", "--model.head-dim", "16", "--model.vocab-size", "320"),
    *("--model.layer-types", "conv", "full_attention", "--tokenizer.vocab-size", "300"),
)


def write_rows(path: Path) -> None:
    """Questions with one right answer each."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(96):
            giver, taker = draw.sample(NAMES, 2)
            turns = [("user", f"{giver} gives {taker} a cup. Who has it?"), ("assistant", f"{taker} has the cup.")]
            file.write(json.dumps({"messages": [{"role": r, "content": text} for r, text in turns]}) + "\n")


def tiny_run(folder: Path) -> Run:
    """The recipe with a small model, made for these rows."""
    rows = folder / "rows.jsonl"
    write_rows(rows)
    words = [
        *("--run", "run", "--output-dir", str(folder), *SHAPE, "--tokenizer.train-on", str(rows)),
        *("--sft.data.train", str(rows), "--sft.data.max-length", "64", "--sft.data.row-length", "64"),
        *("--sft.max-steps", str(STEPS), "--sft.save-steps", "3", "--sft.rows-per-step", str(8 * jax.device_count())),
        *("--sft.optimizer.learning-rate", "1e-2"),
    ]
    return resolve_run(load_run("sft"), words).run


def check(folder: Path) -> str:
    """First and last loss, and the error of the export.

    Raises:
      Broken: the loss does not fall, a finished run does not know itself, or its files hold something else.
    """
    run = tiny_run(folder)
    home = folder / "run"
    if execute(run) != 0:  # by a signal, which is no fault of the installation
        raise KeyboardInterrupt
    losses = [record["loss"] for record in read_metrics(home / "metrics.jsonl") if "loss" in record]
    require(len(losses) == STEPS, f"{len(losses)} steps were logged, not {STEPS}")
    require(losses[-1] < 0.9 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
    before = (home / "metrics.jsonl").read_bytes()
    require(execute(run) == 0, "the finished run does not start again")
    require((home / "metrics.jsonl").read_bytes() == before, "the finished run was trained again")
    kept, exported = load_model(home), load_model(home / "export")
    for mine, theirs in zip(jax.tree.leaves(kept.params), jax.tree.leaves(exported.params), strict=True):
        require(np.array_equal(np.asarray(mine), np.asarray(theirs)), "checkpoint and export hold different numbers")
    return f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {STEPS} steps; checkpoint and export read back bit for bit"
