"""One run, one directory: locked while in use, bound to one configuration and one set of data, finished once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxpo.errors import RunError
from jaxpo.train.files import read_json, write_json

_ABSENT = object()


class RunDir:
    """A run directory, held by an exclusive lock from entry to exit.

    Holds `config.json` (the resolved configuration), `data.json` (hash of each stage's data), `metrics.jsonl`,
    `stages/NAME/`, and `finished.json` once done. The lock belongs to the process: a killed one leaves none behind.

    Args:
      path: made when absent.
      restart: move an existing directory aside to NAME.1 (or .2, ...) and begin with an empty one.
      primary: False on all processes but one of a multi-process run: they neither lock nor write.

    Raises:
      RunError: another process uses it (on entry); configuration or data changed (`check_config`, `check_data`).
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
            for name in ("config.json", "data.json", "summary.json", "samples.json", "data_counts.json"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "tokenizer", ignore_errors=True)

    def check_config(
        self,
        config: Mapping[str, Any],
        *,
        ignore: Iterable[str] = (),
        read: Callable[[Any], Any] = lambda stored: stored,
    ) -> None:
        """Store the resolved configuration, or compare it with the stored one.

        Args:
          config: JSON values.
          ignore: dotted names that may change ("report_to"); everything below them may too.
          read: what a stored configuration is to this version: present names of types, defaults of newer fields.
        """
        stored = read_json(self.path / "config.json")
        if stored is not None:
            self._refuse_changes(read(stored), config, "configuration", tuple(ignore))
        if self.primary:
            write_json(self.path / "config.json", config)

    def check_data(self, stage: str, fingerprint: Mapping[str, Any]) -> None:
        """Store what a stage's data are (hash, files, counts), or compare with what is stored."""
        stored = read_json(self.path / "data.json") or {}
        if stage in stored:
            self._refuse_changes(stored[stage], fingerprint, f"data for stage {stage}", ())
        elif self.primary:
            write_json(self.path / "data.json", {**stored, stage: dict(fingerprint)})

    def finished(self) -> dict[str, Any] | None:
        """What `finish` stored, or None while the run is not finished."""
        return read_json(self.path / "finished.json")

    def finish(self, results: Mapping[str, str]) -> None:
        """Mark the run as finished. `results`: what -> path relative to the run directory."""
        if self.primary:
            write_json(self.path / "finished.json", {"results": dict(results)})

    def finished_message(self) -> str:
        """Where the results of a finished run are."""
        results = (self.finished() or {}).get("results", {})
        where = "".join(f"\n  {what}: {self.path / path}" for what, path in results.items())
        return f"{self.path} is finished.{where}\nStart another with --run NEW, or this one over with --restart."

    def _refuse_changes(self, old: Any, new: Any, what: str, ignore: tuple[str, ...]) -> None:
        changes = [c for c in changed_fields(old, json.loads(json.dumps(new))) if not _covered(c[0], ignore)]
        if changes:
            lines = "".join(f"\n  {name}: {before} -> {after}" for name, before, after in changes[:20])
            more = f"\n  ... and {len(changes) - 20} more" if len(changes) > 20 else ""
            raise RunError(
                f"{self.path} was made with another {what}:{lines}{more}\n"
                "Two ways on: --run NEW (another directory, this one stays), or --restart "
                f"(moves this one aside to {_free_name(self.path).name} and starts over)."
            )


def changed_fields(old: Any, new: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """`(dotted name, old, new)` for every value that differs between two JSON documents."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(k for k in new if k not in old)]
        pairs = [(str(k), old.get(k, _ABSENT), new.get(k, _ABSENT)) for k in keys]
    elif isinstance(old, list) and isinstance(new, list):
        longest = max(len(old), len(new))
        padded = [[*x, *[_ABSENT] * (longest - len(x))] for x in (old, new)]
        pairs = [(str(i), *both) for i, both in enumerate(zip(*padded, strict=True))]
    else:
        return [] if old == new and type(old) is type(new) else [(prefix, _shown(old), _shown(new))]
    return [c for key, a, b in pairs for c in changed_fields(a, b, f"{prefix}.{key}" if prefix else key)]


def _covered(name: str, ignore: tuple[str, ...]) -> bool:
    return any(name == i or name.startswith(f"{i}.") for i in ignore)


def _shown(value: Any) -> str:
    text = "(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _free_name(path: Path) -> Path:
    n = 1
    while (candidate := path.with_name(f"{path.name}.{n}")).exists():
        n += 1
    return candidate


_LOCK = "lock"


def _lock(directory: Path) -> int:
    """Take the directory's lock; the descriptor that holds it. RunError naming the holder when it is taken."""
    file = directory / _LOCK
    while True:
        directory.mkdir(parents=True, exist_ok=True)
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
    return descriptor
