"""The command: which runs, and where the picture goes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from curves.kl import to_first_model
from curves.picture import draw
from curves.stages import OnlineRun, online_stages

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str]) -> int:
    """Exit status: 2 when there is nothing to draw."""
    parser = argparse.ArgumentParser(prog="scripts/online_curves", description="Draw what online stages learnt.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "online.png")
    parser.add_argument("--points", type=int, default=12, metavar="N", help="generations whose KL is measured")
    options = parser.parse_args(argv)
    found: list[OnlineRun] = []
    for run in options.runs:
        stages = online_stages(run)
        if not stages:
            print(f"error: {run} has no online stage that has trained; name run directories")
            return 2
        found += stages
    draw(found, [to_first_model(stage, options.points) for stage in found], options.out)
    print(f"wrote {options.out}: {len(found)} stages of {len(options.runs)} runs")
    return 0
