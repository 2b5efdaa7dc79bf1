"""One run, one directory: locked while in use, bound to one configuration and one set of data, finished once."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxpo.errors import RunError
from jaxpo.train.files import read_derived, read_json, remove_leftovers, write_json

_LOCK, _CONFIG, _DATA, _BEGINNING, _FINISHED = "lock", "config.json", "data.json", "run.json", "finished.json"
_NEW_LINE = "\n  "


class RunDir:
    """A run directory, held by an exclusive lock from entry to exit.

    Holds `config.json` (the resolved configuration), `run.json` (where and by which version it was begun), `data.json`
    (hashes of each stage's data), `metrics.jsonl`, `stages/NAME/`, and `finished.json` once done. The lock belongs to
    the process: a killed one leaves none behind.

    Args:
      path: made when absent.
      restart: move an existing directory aside to NAME.1 (or .2, ...) and begin with an empty one.
      primary: False on all processes but one of a multi-process run: they neither lock nor write.

    Raises:
      RunError: another process uses it (on entry).
    """

    def __init__(self, path: Path | str, *, restart: bool = False, primary: bool = True):
        self.path = Path(path).absolute()
        self.restart = restart
        self.primary = primary
        self.moved_to: Path | None = None
        self._lock: int | None = None

    def __enter__(self) -> RunDir:
        if not self.primary:
            return self
        self._lock = _lock(self.path)
        if self.restart and any(p.name != _LOCK for p in self.path.iterdir()):
            self.moved_to = _free_name(self.path)
            self.path.rename(self.moved_to)
            os.close(self._lock)
            self._lock = _lock(self.path)
        remove_leftovers(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stage(self, name: str) -> Path:
        """Directory of a stage; made when absent."""
        folder = self.path / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def holder(self) -> str:
        """Who holds the directory, as its lock says; empty where nobody does."""
        file = self.path / _LOCK
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""

    @property
    def metrics(self) -> Path:
        """The metrics file."""
        return self.path / "metrics.jsonl"

    @property
    def begun(self) -> bool:
        """Whether anything was trained here: until then a mistake in the configuration can simply be mended."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or any(self.path.glob("stages/*/checkpoints/*")) or any(self.path.glob("stages/*/model/*"))

    def forget_start(self) -> None:
        """Remove what a start left that ended before its first step: all of it follows from the configuration."""
        if self.primary and not self.begun:
            results = ("summary.json", "samples.json", "data_counts.json")
            for name in (_CONFIG, _DATA, _BEGINNING, *results, "generation_config.json"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "tokenizer", ignore_errors=True)

    def stored_config(self) -> Any:
        """The configuration that was kept, as JSON; None before a run's first start."""
        return read_json(self.path / _CONFIG)

    def keep_config(self, config: Mapping[str, Any]) -> None:
        """Store the resolved configuration."""
        if self.primary:
            write_json(self.path / _CONFIG, config)

    def stored_data(self, stage: str) -> dict[str, Any] | None:
        """What was kept of a stage's data; None before they were made."""
        found: dict[str, Any] | None = (read_json(self.path / _DATA) or {}).get(stage)
        return found

    def keep_data(self, stage: str, fingerprint: Mapping[str, Any]) -> None:
        """Store what a stage's data are: hashes, files, counts."""
        if self.primary:
            write_json(self.path / _DATA, {**(read_json(self.path / _DATA) or {}), stage: dict(fingerprint)})

    def beginning(self) -> dict[str, Any]:
        """What `keep_beginning` stored; empty of a run that an earlier version began."""
        return read_json(self.path / _BEGINNING) or {}

    def keep_beginning(self, about: Mapping[str, Any]) -> None:
        """Store where and by what a run was begun."""
        if self.primary:
            write_json(self.path / _BEGINNING, dict(about))

    def refusal(self, what: str, lines: Iterable[str], remedy: str = "") -> RunError:
        """An error that says what is not as it was, and the ways on."""
        listed = list(lines)
        more = f"\n  ... and {len(listed) - 20} more" if len(listed) > 20 else ""
        return RunError(
            f"{self.path} was made with another {what}:{''.join(f'{_NEW_LINE}{line}' for line in listed[:20])}{more}\n"
            f"{remedy}Two ways on: --run NEW (another directory, this one stays), or --restart "
            f"(moves this one aside to {_free_name(self.path).name} and starts over)."
        )

    def reopen(self, stage: str, parts: Iterable[str]) -> None:
        """Take back that a stage, and with it the run, has finished: it goes on from its last checkpoint."""
        if not self.primary:
            return
        (self.path / _FINISHED).unlink(missing_ok=True)
        for name, section in (("summary.json", "probes"), ("samples.json", None)):
            document = read_derived(self.path / name)[0]
            if (document.get(section, {}) if section else document).pop(stage, None) is not None:
                write_json(self.path / name, document)
        for part in parts:
            shutil.rmtree(self.stage(stage) / part, ignore_errors=True)

    def finished(self) -> dict[str, Any] | None:
        """What `finish` stored, or None while the run is not finished."""
        return read_json(self.path / _FINISHED)

    def finish(self, results: Mapping[str, str]) -> None:
        """Mark the run as finished. `results`: what -> path relative to the run directory."""
        if self.primary:
            write_json(self.path / _FINISHED, {"results": dict(results)})

    def finished_message(self) -> str:
        """Where the results of a finished run are."""
        results = (self.finished() or {}).get("results", {})
        where = "".join(f"\n  {what}: {self.path / path}" for what, path in results.items())
        return f"{self.path} is finished.{where}\nStart another with --run NEW, or this one over with --restart."


def _free_name(path: Path) -> Path:
    n = 1
    while (candidate := path.with_name(f"{path.name}.{n}")).exists():
        n += 1
    return candidate


def _lock(directory: Path) -> int:
    """Take the directory's lock; the descriptor that holds it. RunError naming the holder when it is taken."""
    file = directory / _LOCK
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise RunError(f"{file} is a folder where a run keeps its lock, a file. Move it away and start again.")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise RunError(
                f"{directory} is in use by {holder}. Wait for it, stop it, or choose another directory with --run NEW."
            ) from None
        # Between open and lock another process may have moved the directory aside: then this lock guards the wrong one.
        if file.exists() and file.stat().st_ino == os.fstat(descriptor).st_ino:
            break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    os.fsync(descriptor)  # the run's processes on other hosts read it
    return descriptor
