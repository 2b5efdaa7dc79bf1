"""The command: train what is missing, then write the table and the plot from everything that is there."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from comparison import experiment, tables
from comparison.measure import HeldOut, Row, row_of, rules
from comparison.settings import SMOKE, Settings
from jaxpo.objectives.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "alpaca_eval_ranked.jsonl.gz"


def main(argv: Sequence[str]) -> int:
    """Exit status 1 when a method could not be trained; the others are in the table all the same."""
    args = parse(argv)
    if not args.data.is_file():
        print(
            f"error: there is no {args.data}; give --data FILE (ranked responses: prompt, responses, scores, models)."
        )
        return 2
    settings = SMOKE if args.smoke else Settings()
    changed = {"budget_tokens": args.budget_tokens, "seeds": args.seeds and tuple(range(args.seeds))}
    settings = dataclasses.replace(settings, **{k: v for k, v in changed.items() if v})
    names = args.methods or experiment.compared()
    bench = experiment.open_bench(args.cache, args.data, settings, lambda line: print(line, flush=True))
    failed = {} if args.table_only else train(bench, names)
    held = HeldOut.of(bench)
    rows = rules(held) + trained_rows(bench, held)
    facts: dict[str, Any] = {
        "held-out pairs": len(held.prompt),
        "of them length-matched": int(held.matched.sum()),
        "held-out prompts": int(held.prompt.max()) + 1,
        "training tokens per method": settings.budget_tokens,
        "learning rate": settings.learning_rate,
        "parameters": f"{sum(x.size for x in jax.tree.leaves(bench.sft)):,}",
        **{k.replace("_", " "): v for k, v in bench.counts.items()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "compare_losses.md").write_text(tables.document(held, rows, settings, facts), encoding="utf-8")
    tables.plot(args.out / "compare_losses.png", held, rows, settings)
    print(f"{args.out / 'compare_losses.md'}: {len(rows) - 2} methods")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(prog="scripts/compare_losses", description=__doc__)
    parser.add_argument("methods", nargs="*", help="names (default: every method that trains a policy on preferences)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default 3)")
    parser.add_argument("--budget-tokens", type=int, help="row slots that each method trains on")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything: does it run")
    parser.add_argument("--table-only", action="store_true", help="train nothing: write the table from what is there")
    parser.add_argument("--data", type=Path, default=SOURCE)
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "compare_losses")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args(argv)
    unknown = [name for name in args.methods if name not in experiment.compared()]
    if unknown:
        parser.error(f"not compared: {', '.join(unknown)}; there are: {', '.join(experiment.compared())}")
    return args


def train(bench: experiment.Bench, names: Sequence[str]) -> dict[str, str]:
    """Every method and seed that has no result yet; returns what failed and why."""
    results = bench.directory / "results"
    results.mkdir(exist_ok=True)
    missing = {n: tuple(s for s in bench.settings.seeds if not (results / f"{n}.{s}.json").is_file()) for n in names}
    missing = {n: seeds for n, seeds in missing.items() if seeds}
    total, done, began = sum(map(len, missing.values())), 0, time.perf_counter()
    failed: dict[str, str] = {}
    for name, seeds in missing.items():
        try:
            for seed, result in experiment.run_method(bench, name, seeds, lambda line: None):
                write_result(results / f"{name}.{seed}.json", result)
                done += 1
                left = (time.perf_counter() - began) / done * (total - done)
                print(
                    f"[{done}/{total}] {name} seed {seed}: {result['seconds']:.1f} s, {left / 60:.0f} min left",
                    flush=True,
                )
        except Exception as error:  # one method's failure is reported at the end; the others go on
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{name} FAILED: {failed[name]}", flush=True)
            total -= len(seeds)
    return failed


def write_result(file: Path, result: dict[str, Any]) -> None:
    """Complete or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result))
    temporary.replace(file)


def trained_rows(bench: experiment.Bench, held: HeldOut) -> list[Row]:
    """A row for every method that has results, best accuracy on matched pairs first."""
    rows = []
    for name in experiment.compared():
        files = [bench.directory / "results" / f"{name}.{seed}.json" for seed in bench.settings.seeds]
        runs = [json.loads(f.read_text()) for f in files if f.is_file()]
        if runs:
            rows.append(row_of(held, name, METHODS[name].INFO.family, runs))
    return sorted(rows, key=lambda row: -float(row.likelihood[held.matched].mean()))
