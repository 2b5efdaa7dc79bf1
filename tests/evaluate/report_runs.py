"""Synthetic run directories with the shape of real ones: noisy decaying losses, held-out points, probes, samples."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from jaxpo.config import SFT, Data, Merge, Preference, Pretrain, Run, Tokenizer, serialise

NASTY = '<script>alert("x")</script> & "quotes" <b>bold</b>'


def recipe(name: str, seed: int = 0) -> Run:
    data = Data(train=("docs.jsonl",), eval=("held_out.jsonl",), max_length=512, row_length=512)
    return Run(
        name=name,
        seed=seed,
        tokenizer=Tokenizer(train_on=("docs.jsonl",)),
        prompts=("What does os.path.join do?", NASTY),
        stages=(
            Pretrain(data=data, max_tokens=4_000_000),
            SFT(data=data, num_train_epochs=3),
            Preference(data=data, max_steps=200),
            Merge(models=("sft", "preference")),
        ),
    )


def metrics(stage: str, steps: int, first: float, last: float, seed: int, every: int) -> list[dict[str, Any]]:
    """Records of one stage under the names that training writes."""
    draw = random.Random(f"{stage} {seed}")
    out = []
    for step in range(1, steps + 1):
        done = step / steps
        loss = last + (first - last) * math.exp(-5 * done)
        record: dict[str, Any] = {
            "stage": stage,
            "step": step,
            "loss": loss + draw.gauss(0, 0.03 * loss),
            "learning_rate": 2e-3 * min(1, step / (0.05 * steps)) * (0.5 + 0.5 * math.cos(math.pi * done)),
            "grad_norm": 0.4 + 3 * math.exp(-8 * done) + abs(draw.gauss(0, 0.1)),
            "tokens_per_second": 14_000 + draw.gauss(0, 400),
            "step_time": 0.29,
            "mfu": 0.41,
            "time/data": 0.02,
            "time/step": 0.9,
            "time/eval": 0.05,
            "time/save": 0.02,
            "time/other": 0.01,
            "num_tokens": step * 4096,
            "skipped": 0.0,
        }
        if stage == "preference":
            record |= {
                "rewards/margins": 2.4 * (1 - math.exp(-3 * done)) + draw.gauss(0, 0.25),
                "rewards/accuracies": min(1.0, 0.5 + 0.4 * (1 - math.exp(-4 * done)) + draw.gauss(0, 0.06)),
                "logps/chosen": -80 - 6 * done + draw.gauss(0, 3),
                "logps/rejected": -84 - 26 * done + draw.gauss(0, 3),
            }
        else:
            record["mean_token_accuracy"] = 0.15 + 0.35 * (1 - math.exp(-4 * done)) + draw.gauss(0, 0.01)
        if step % every == 0 or step == steps:
            record["eval_loss"] = 1.06 * loss
            if stage == "preference":
                record |= {
                    "eval_rewards/accuracies": 0.5 + 0.34 * (1 - math.exp(-4 * done)),
                    "eval_rewards/margins": 2.0 * (1 - math.exp(-3 * done)),
                }
        out.append(record)
    return out


def probe(value: float, spread: float, n: int) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def make_run(folder: Path, *, seed: int = 0, stages: int = 3, finished: bool = True, scale: float = 1.0) -> Path:
    """Write a run directory.

    Args:
      stages: how many of the three trained stages have been logged.
      finished: also write summary, samples and counts of all stages and the finish mark.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(serialise.dump(recipe(folder.name, seed)))
    plan = [("pretrain", 900, 8.3, 3.1, 100), ("sft", 240, 3.4, 1.9, 40), ("preference", 200, 0.69, 0.38, 25)]
    lines = [r for stage, n, a, b, every in plan[:stages] for r in metrics(stage, n, scale * a, scale * b, seed, every)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    if not finished:
        return folder
    after = {
        "initial": (8.02, 8.31, 0.25),
        "pretrain": (1.98, 3.05, 0.31),
        "sft": (2.01, 1.87, 0.44),
        "preference": (2.03, 1.91, 0.86),
        "merge": (2.0, 1.88, 0.81),
    }
    probes = {
        stage: {
            "bits per byte": probe(scale * bits, 0.03, 412),
            "sft loss per token": probe(scale * sft, 0.05, 512),
            "ranking accuracy": probe(rank, 0.04, 480),
        }
        for stage, (bits, sft, rank) in after.items()
    }
    probes["initial"]["xz -9e alone, bits per byte"] = probe(2.42, 0.0, 412)
    platform = {
        "jaxpo": "0.1.0",
        "jax": "0.10.2",
        "python": "3.11.9",
        "platform": "cpu",
        "devices": 1,
        "cpu_threads": 2,
    }
    corpus = {"hash": "9f3ac1d2", "bytes": 6_812_345}
    took = {"pretrain": 262.0, "sft": 71.5, "preference": 60.1, "merge": 0.4}
    export = {"dtype": "float32", "max_logprob_error": 3.1e-6, "kl": 4e-12}
    summary = {"probes": probes, "seconds": took, "platform": platform, "corpus": corpus, "export": export}
    (folder / "summary.json").write_text(json.dumps(summary))
    answer = "Join one or more path components intelligently. The return value is the concatenation of path."
    samples = {
        "pretrain": [{"prompt": "What does os.path.join do?", "response": "the the path of the file"}],
        "sft": [{"prompt": "What does os.path.join do?", "response": answer}, {"prompt": NASTY, "response": NASTY}],
        "preference": [
            {"prompt": "What does os.path.join do?", "response": answer[:47]},
            {"prompt": NASTY, "response": ""},
        ],
    }
    (folder / "samples.json").write_text(json.dumps(samples))
    counts = {
        "pretrain": {"read": 21_480, "kept": 21_480, "truncated_response": 0, "dropped": {}},
        "sft": {"read": 9_120, "kept": 9_017, "truncated_response": 311, "dropped": {"no supervised token": 103}},
        "preference": {"read": 4_410, "kept": 4_388, "truncated_response": 57, "dropped": {"chosen == rejected": 22}},
    }
    (folder / "data_counts.json").write_text(json.dumps(counts))
    return folder
