"""The command: the undisturbed run, then every fault in turn; a line for each, and the table."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from campaign import disks, files, processes, stores, table
from campaign.child import ROOT
from campaign.scene import Fault, Scene, Tally

FAULTS: tuple[Fault, ...] = (*processes.FAULTS, *disks.FAULTS, *files.FAULTS, *stores.FAULTS)
DOCUMENT = ROOT / "docs" / "reliability.md"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description="Disturb runs, and compare how they end.")
    parser.add_argument("--full", action="store_true", help="all faults, and the table of docs/reliability.md")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds this; writes no table")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="random instants of --full (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the instants (default: 0)")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary one otherwise")
    options = parser.parse_args(argv)
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    return options


def played(scene: Scene, fault: Fault, trials: int) -> table.Row:
    """One fault; what the campaign itself cannot do is a failure of the fault too."""
    against = fault.needs()
    if against is not None:
        return table.Row(fault.name, fault.holds, Tally(), against)
    try:
        tally = fault.play(scene, trials)
    except (OSError, RuntimeError, ValueError) as error:
        tally = Tally(trials, 0, 0, [f"{type(error).__name__}: {error}"])
    return table.Row(fault.name, fault.holds, tally)


def campaign(scene: Scene, options: argparse.Namespace) -> list[table.Row]:
    """All faults that are asked for, each as often as its form says."""
    rows = []
    for fault in FAULTS:
        trials = fault.trials[options.full or bool(options.only)]
        trials = min(trials, options.kills) if trials > 10 else trials
        if not trials or options.only not in fault.name:
            continue
        row = played(scene, fault, trials)
        rows.append(row)
        t = row.tally
        result = (
            f"not tried: {row.untried}" if row.untried else f"{t.survived} of {t.tried} survived, {t.lost} steps lost"
        )
        print(f"{row.name}: {result}", *(f"  {text}" for text in t.wrong), sep="\n", flush=True)
    return rows


def main(argv: Sequence[str]) -> int:
    """Exit status: 1 when a fault was not survived."""
    options = arguments(argv)
    with tempfile.TemporaryDirectory(prefix="jaxpo-faults-") as temporary:
        scene = Scene((options.folder or Path(temporary)).absolute(), options.seed)
        print("the undisturbed run", flush=True)
        scene.prepare()
        rows = campaign(scene, options)
    if options.full and not options.only:
        table.write(DOCUMENT, table.markdown(rows, options.seed))
        print(f"the table is in {DOCUMENT}")
    return int(any(row.tally.survived < row.tally.tried for row in rows))
