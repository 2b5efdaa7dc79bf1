"""Accuracy against length after every stage of some runs, from what they measured (`scripts/reasoning_lengths`)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RIGHT, TOKENS = "exact_match", "answer_tokens"
INITIAL = "initial"
Probes = Mapping[str, Mapping[str, Mapping[str, float]]]


def main(argv: Sequence[str]) -> int:
    """Print the table of the runs in these folders."""
    parser = argparse.ArgumentParser(prog="scripts/reasoning_lengths", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, one per seed of the same recipe")
    parser.add_argument("--base", help="stage that the compression is against (default: the first one)")
    args = parser.parse_args(argv)
    try:
        print("\n".join(table([measured(run) for run in args.runs], args.base)))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    return 0


def measured(run: Path) -> Probes:
    """What a run measured after each of its stages.

    Raises:
      LookupError: it measured no accuracy or no lengths.
    """
    path = run / "summary.json"
    if not path.exists():
        raise LookupError(f"{run}: there is no summary.json; the run has not ended.")
    stages = json.loads(path.read_text(encoding="utf-8"))["probes"]
    for name, found in stages.items():
        for probe, key in (("ExactMatch", RIGHT), ("EndsByItself", TOKENS)):
            if key not in found:
                raise LookupError(f"{run}: stage {name!r} has no {key!r}; give the run the probe {probe}.")
    return {name: found for name, found in stages.items() if name != INITIAL}


def table(runs: Sequence[Probes], base: str | None = None) -> list[str]:
    """Markdown: a row per stage, the seeds side by side; of one seed its interval, of several their mean.

    Raises:
      LookupError: the runs have other stages, or none of the base's name.
    """
    stages = list(runs[0])
    if any(list(run) != stages for run in runs):
        raise LookupError(f"the runs have different stages: {', '.join('/'.join(run) for run in runs)}.")
    if base is not None and base not in stages:
        raise LookupError(f"there is no stage {base!r}; there are {', '.join(stages)}.")
    against = [run[base or stages[0]][TOKENS]["value"] for run in runs]
    lines = ["| stage | right answers | tokens of an answer | compression |", "|---|---|---|---|"]
    for stage in stages:
        right = [run[stage][RIGHT] for run in runs]
        tokens = [run[stage][TOKENS]["value"] for run in runs]
        ratio = mean([a / max(n, 1e-9) for a, n in zip(against, tokens, strict=True)])
        lines.append(f"| {stage} | {shares(right)} | {numbers(tokens)} | {ratio:.2f} |")
    return lines


def shares(found: Sequence[Mapping[str, float]]) -> str:
    """One value with its interval; of several their mean, and each."""
    if len(found) == 1:
        return f"{found[0]['value']:.3f} [{found[0]['low']:.3f}, {found[0]['high']:.3f}]"
    values = [one["value"] for one in found]
    return f"{mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def numbers(found: Sequence[float]) -> str:
    """One number; of several their mean, and each."""
    each = f" ({', '.join(f'{value:.1f}' for value in found)})" if len(found) > 1 else ""
    return f"{mean(found):.1f}{each}"


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)
