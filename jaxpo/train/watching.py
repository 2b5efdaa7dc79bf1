"""What a run notes of itself besides its metrics: where its time goes, on which process, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jaxpo.config import Run
from jaxpo.train.alarms import Alarms
from jaxpo.train.console import Console
from jaxpo.train.goodput import STARTS
from jaxpo.train.ledger import Ledger
from jaxpo.train.rundir import RunDir


@dataclass
class Watching:
    """One start of a run under watch; without arguments it counts, and keeps and tells nothing."""

    ledger: Ledger = field(default_factory=Ledger)
    alarms: Alarms = field(default_factory=Alarms)


@contextmanager
def watching(run: Run, home: RunDir, console: Console) -> Iterator[Watching]:
    """Of a run directory; earlier starts that took no step are forgotten, as everything else of theirs is."""
    folder: Path | None = home.path if home.primary else None
    path = home.path / STARTS
    with (
        Ledger(path, fresh=not home.begun, primary=home.primary, say=console.say) as ledger,
        Alarms(folder, run.name, run.alerts, run.on_alert, console.say) as alarms,
    ):
        yield Watching(ledger, alarms)
