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
DOCUMENT, KEPT = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description="Disturb runs, and compare how they end.")
    parser.add_argument("--full", action="store_true", help="all faults, as often as the table says")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="faults whose name holds one of these")
    parser.add_argument("--write", action="store_true", help="keep what was found in docs/reliability.md")
    parser.add_argument("--most", type=int, default=50, metavar="N", help="trials of each fault (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the instants (default: 0)")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary one otherwise")
    options = parser.parse_args(argv)
    if options.most < 1:
        parser.error("--most must be at least 1")
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
        trials = fault.trials[options.full or options.only != [""]]
        trials = min(trials, options.most)
        if not trials or not any(text in fault.name for text in options.only):
            continue
        row = played(scene, fault, trials)
        rows.append(row)
        if options.write:
            table.keep(KEPT, row)
            table.write(DOCUMENT, table.markdown(table.kept_rows(KEPT, [f.name for f in FAULTS]), options.seed))
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
        scene.prepare(twice=options.full)
        rows = campaign(scene, options)
    return int(any(row.tally.survived < row.tally.tried for row in rows))
