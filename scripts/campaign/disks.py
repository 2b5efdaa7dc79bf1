"""Disks without room, and disks that cannot be written."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from campaign.processes import logged
from campaign.scene import Fault, Scene, Tally, refused

ROOM = "64m"


def no_mounts() -> str | None:
    """Why no file system can be mounted here: a full disk is a small tmpfs, and a read-only one is mounted so."""
    if os.geteuid() != 0:
        return "only root may mount a file system"
    return None if shutil.which("mount") else "there is no mount command"


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A small file system of its own at a folder; everything in it goes with it."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full(scene: Scene, trials: int) -> Tally:
    """So much room is left that the disk is full at another place each time; then there is room again."""
    tally = Tally()
    needed = sum(p.stat().st_size for p in scene.whole.rglob("*") if p.is_file())
    for n in range(trials):
        with mounted(scene.folder / f"disk-{n}") as disk:
            run, words = disk / f"full-{n}", ("--output-dir", str(disk))
            free = shutil.disk_usage(disk).free
            left = int(needed * (0.1 + 0.6 * (n + scene.rng.random()) / trials))
            ballast = disk / "ballast"
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - left)
            ended = scene.finish(run.name, *words)
            wrong = refused(ended, 2, "No space left on device")
            ballast.unlink()
            problems, lost = scene.again(run, words=words)
        tally.add([*wrong, *problems], lost)
    return tally


def too_large(scene: Scene, trials: int) -> Tally:
    """No file may be larger than so much (RLIMIT_FSIZE, as a quota does): needs no privilege."""
    tally = Tally()
    for n in range(trials):
        run = scene.run(f"too-large-{n}")
        largest = max(p.stat().st_size for p in (scene.whole / "stages").rglob("*") if p.is_file())
        limit = int(largest * (0.5 + 0.4 * scene.rng.random()))
        ended = scene.finish(run.name, before=functools.partial(_limit, limit))
        wrong = refused(ended, 2, "File too large")
        problems, lost = scene.again(run)
        tally.add([*wrong, *problems], lost)
    return tally


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def read_only(scene: Scene, trials: int) -> Tally:
    """The file system of a killed run is read-only when it is started again, as after an error of its disk."""
    tally = Tally()
    for n in range(trials):
        with mounted(scene.folder / f"frozen-{n}") as disk:
            run, words = disk / f"read-only-{n}", ("--output-dir", str(disk))
            child = scene.start(run.name, *words)
            child.until(lambda run=run: logged(run) >= 3)
            child.send(signal.SIGKILL)
            _remount(disk, "ro")
            wrong = refused(scene.finish(run.name, *words), 2, "Read-only file system")
            _remount(disk, "rw")
            problems, lost = scene.again(run, words=words)
        tally.add([*wrong, *problems], lost)
    return tally


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def forbidden(scene: Scene, trials: int) -> Tally:
    """The folder of checkpoints may not be written."""
    tally = Tally()
    for n in range(trials):
        run = scene.away(f"forbidden-{n}")
        folders = [run, *(p for p in run.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        try:
            wrong = refused(scene.finish(run.name), 2, "Permission denied")
        finally:
            for folder in folders:
                folder.chmod(0o700)
        problems, lost = scene.again(run)
        tally.add([*wrong, *problems], lost)
    return tally


def is_root() -> str | None:
    """Why permissions cannot be tried."""
    return "root may write everywhere" if os.geteuid() == 0 else None


HELD = "ends with the file and the reason; with room the same command goes on"

FAULTS = (
    Fault("a full disk (a small file system)", HELD, full, (0, 4), no_mounts),
    Fault("a file too large (a limit, as of a quota)", HELD, too_large, (0, 2)),
    Fault(
        "a read-only file system",
        "ends with the file and the reason; writable again, it goes on",
        read_only,
        (0, 1),
        no_mounts,
    ),
    Fault("a directory that may not be written", "ends with the file and the reason", forbidden, (0, 1), is_root),
)
