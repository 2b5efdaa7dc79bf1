"""Checkpoints, locks and data that are not as they were written, and rows and a clock that are wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from campaign import recipe
from campaign.processes import logged
from campaign.recipe import STAGES, STEPS
from campaign.scene import Fault, Scene, Tally, refused

LAST = STAGES[-1]
YEARS = 10 * 365 * 86400
META = Path("meta", "meta.json")
Damage = Callable[[Path], str]
"""Damages a checkpoint, and says which of its files must be named."""


def flip(file: Path, at: float = 0.5) -> str:
    """One bit of a file; the file's name."""
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 1
    file.write_bytes(bytes(data))
    return file.name


def flipped(checkpoint: Path) -> str:
    """In the largest file: the arrays' values."""
    return flip(max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))


def without_a_file(checkpoint: Path) -> str:
    (checkpoint / "state" / "manifest.ocdbt").unlink()
    return "manifest.ocdbt is missing"


def half_a_manifest(checkpoint: Path) -> str:
    file = checkpoint / META
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return f"{file.name} cannot be read"


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A fault: the newest `count` checkpoints of a run that is away are damaged."""

    damage: Damage
    count: int = 1

    def __call__(self, scene: Scene, trials: int) -> Tally:
        tally = Tally()
        for n in range(trials):
            run = scene.away(f"{self.damage.__name__}-{self.count}-{n}")
            folder = run / "stages" / LAST / "checkpoints"
            steps = sorted((p for p in folder.iterdir() if p.name.isdigit()), reverse=True)
            said = [f"{name}" for name in map(self.damage, steps[: self.count])]
            said += [f"It is kept as {p.name}.damaged" for p in steps[: self.count]]
            wrong, lost = scene.again(run, *said, intact={LAST: int(steps[self.count].name)})
            tally.add(wrong, lost)
        return tally


def stale_lock(scene: Scene, trials: int) -> Tally:
    """The lock's file names a process that is no more."""
    tally = Tally()
    for n in range(trials):
        run = scene.away(f"lock-{n}")
        (run / "lock").write_text("process 1 on another-host\n")
        tally.add(*scene.again(run))
    return tally


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def replace(file: Path) -> None:
    file.write_bytes(b"these are the rows of something else\n" * 40)


@dataclass(frozen=True)
class DamagedShard:
    """A fault: every tokenised shard of a run that is away."""

    damage: Callable[[Path], object]

    def __call__(self, scene: Scene, trials: int) -> Tally:
        tally = Tally()
        for n in range(trials):
            run = scene.away(f"shard-{self.damage.__name__}-{n}")
            shards = sorted(run.glob("data/*/*.array_record"))
            for file in shards:
                self.damage(file)
            wrong, lost = scene.again(run, "is damaged (")
            tally.add(wrong if shards else ["there are no shards"], lost)
        return tally


def rows_replaced(scene: Scene, trials: int) -> Tally:
    """The file of rows is another one: refused with its name; with the old file the run goes on."""
    tally = Tally()
    kept = (scene.folder / "pairs.jsonl").read_bytes()
    for n in range(trials):
        run, file = scene.away(f"rows-{n}"), scene.folder / f"rows-{n}.jsonl"
        words = (f"--{LAST}.data.train", str(file))
        file.write_bytes(b"".join(kept.splitlines(keepends=True)[::-1]))
        wrong = refused(scene.finish(run.name, *words), 2, file.name)
        file.write_bytes(kept)
        problems, lost = scene.again(run, words=words)
        tally.add([*wrong, *problems], lost)
    return tally


def poisoned(scene: Scene, trials: int) -> Tally:
    """Margins whose loss is infinite in float32; a run from the last checkpoint, with the rows mended, goes on."""
    tally = Tally()
    for n in range(trials):
        pairs = [json.loads(line) for line in (scene.folder / "pairs.jsonl").read_text().splitlines()]
        file, run = scene.folder / f"poisoned-{n}.jsonl", scene.run(f"poisoned-{n}")
        recipe.lines(file, [{**row, "margin": 3e38 * (i % 4 == 0)} for i, row in enumerate(pairs)])
        alone = recipe.reward(scene.folder, file)
        ended = scene.finish(run.name, recipe=alone)
        wrong = refused(ended, 2, "The update was not applied; the batch is in")
        if not list(run.glob("stages/reward/reward-step*.npz")):
            wrong.append("the batch was not kept")
        recipe.lines(file, [{**row, "margin": 0.0} for row in pairs])
        found = sorted(p for p in run.glob("stages/reward/checkpoints/*") if p.name.isdigit())
        start = ["--reward.init-from", str(found[-1])] if found else []
        mended = scene.finish(f"mended-{n}", *start, recipe=alone)
        tally.add([*wrong, *refused(mended, 0)])
    return tally


def clock_jumps(scene: Scene, trials: int) -> Tally:
    """The clock of the day jumps forward or back by years in a running stage, and stands right again at the restart."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"clock-{n}")
        fault = {"kind": "clock", "batch": 3, "seconds": YEARS if n % 2 else -YEARS}
        child = scene.start(run.name, fault=fault)
        child.until(lambda run=run: logged(run) >= 5)
        child.send(signal.SIGKILL)
        tally.add(*scene.again(run))
    return tally


def from_the_future(scene: Scene, trials: int) -> Tally:
    """Every file of a run that is away bears a date years ahead."""
    tally = Tally()
    for n in range(trials):
        run = scene.away(f"future-{n}")
        for path in [run, *run.rglob("*")]:
            os.utime(path, (time.time() + YEARS,) * 2)
        tally.add(*scene.again(run))
    return tally


AHEAD = f"the newest intact one is taken, of {STEPS} or fewer steps; the damaged one is named and kept aside"
FAULTS = (
    Fault("a checkpoint with a flipped bit", AHEAD, DamagedCheckpoint(flipped), (1, 1)),
    Fault("a checkpoint without one of its files", AHEAD, DamagedCheckpoint(without_a_file), (0, 1)),
    Fault("a checkpoint with half a manifest", AHEAD, DamagedCheckpoint(half_a_manifest), (0, 1)),
    Fault("the two newest checkpoints damaged", AHEAD, DamagedCheckpoint(flipped, 2), (0, 1)),
    Fault("a stale lock", "does not stop the run", stale_lock, (0, 1)),
    Fault("tokenised shards cut short", "are named and made again", DamagedShard(truncate), (0, 1)),
    Fault("tokenised shards with a flipped bit", "are named and made again", DamagedShard(flip), (0, 1)),
    Fault("tokenised shards replaced", "are named and made again", DamagedShard(replace), (0, 1)),
    Fault("a file of rows replaced", "refused with its name; the old file is enough", rows_replaced, (0, 1)),
    Fault(
        "a row that makes loss and gradient infinite",
        "stops before the update; a run from the last checkpoint with the row mended ends well",
        poisoned,
        (0, 1),
    ),
    Fault("the clock jumps ten years", "nothing depends on the time of day", clock_jumps, (0, 2)),
    Fault("files from the future", "nothing depends on their dates", from_the_future, (0, 1)),
)
