"""A second copy of a run's directory at `s3://` or `gs://`: written beside the training, read where the run is missing.

A checkpoint's `files.json` is copied after its other files, and one without it does not count. `mirror.json` lies on
both sides and says whose copy it is and how often it was brought up to date, so that of two the newer one is known.
Calls are retried as the library of the scheme is told to (botocore's configuration for S3); none are retried here: what
failed is copied with the next checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from jaxpo.checkpoint.commit import UNSYNCED
from jaxpo.checkpoint.integrity import FILES, read_document
from jaxpo.checkpoint.store import CHECKPOINTS
from jaxpo.data.durable import publish
from jaxpo.data.rows.files.remote import filesystem
from jaxpo.errors import FULL, DamagedError, JaxpoError, RunError, writing
from jaxpo.train.files import LEFT_FILE, LEFT_FOLDER, read_json, write_json
from jaxpo.train.rundir import RunDir

STATE = "mirror.json"
STORES = (CHECKPOINTS, "model")
"""Folders whose folders are checkpoints; those under way and the damaged ones have other names than a number."""
_OWN = ("lock", "data", STATE)
"""What of a run is not copied: its lock, and the rows that are tokenised again."""


class Mirror:
    """The copy `url/NAME` of a run's directory; without a URL, and on all processes but the first, nothing is done.

    Args:
      say: gets the lines for the user, also from the thread that copies.
    """

    def __init__(self, url: str | None = None, home: RunDir | None = None, say: Callable[[str], None] = print):
        self._say, self.active = say, False
        if url is not None and home is not None and home.primary:
            self.home, self.active = home, True
            self.url = f"{url.rstrip('/')}/{home.path.name}"
            self._fs = filesystem(url)
            self._root = self._fs._strip_protocol(self.url)
            self._path = home.path
            self._pool = ThreadPoolExecutor(1, "mirror")
            self._next: Future[None] | None = None

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Copy what is left, and wait for it."""
        if self.active:
            self.push()
            self._pool.shutdown()

    def push(self) -> None:
        """Have the copy brought up to date, on a thread of its own; one more that waits already will do."""
        if self.active and (self._next is None or self._next.running() or self._next.done()):
            self._next = self._pool.submit(self._push)

    def _push(self) -> None:
        if not self.home.begun:
            return
        try:
            with self._told("written", f"All of it is kept in {self._path}, and copied after the next checkpoint"):
                self._copy()
        except (JaxpoError, OSError) as error:
            self._say(f"warning: {error}")

    def _copy(self) -> None:
        """Copy what has changed, then remove what is gone here."""
        own, copy = self._own_state()
        there = self._state_there()
        if there is None:
            if self._names():
                raise RunError(f"{self.url} holds files that are no copy of a run; name another place.")
            own["id"] = own["id"] or uuid.uuid4().hex
            copy["files"] = {}
            self._write_state(own, 0)
        elif there["id"] != own["id"] or there["updates"] > copy["updates"]:
            raise RunError(f"{self.url} is written by another run, or from another directory: it is left alone.")
        found, listed = _files(self._path), self._names()
        try:
            for name in sorted(found, key=_order):
                if copy["files"].get(name) != found[name] or name not in listed:
                    copy["files"].pop(name, None)
                    if self._put(name):
                        copy["files"][name] = found[name]
            for name in sorted(listed - found.keys(), key=_order, reverse=True):
                self._fs.rm_file(f"{self._root}/{name}")
                copy["files"].pop(name, None)
        except BaseException:
            write_json(self._path / STATE, own)
            raise
        self._write_state(own, copy["updates"] + 1)

    def _put(self, name: str) -> bool:
        """Whether a file was copied; one that is gone meanwhile is not."""
        try:
            self._fs.put_file(str(self._path / name), f"{self._root}/{name}")
            return True
        except FileNotFoundError:
            if (self._path / name).exists():
                raise
            return False

    def fetch(self, restart: bool = False) -> None:
        """Before a run starts: copy from the mirror what it has and the directory lacks, if the mirror is newer.

        Args:
          restart: the run starts over, and its copy is moved aside as its directory is.

        Raises:
          RunError: the mirror cannot be read, is of another run, or lacks steps that the directory has.
        """
        if not self.active:
            return
        with self._told("read", "Start again, or without `mirror`; a start must know whether the copy is newer"):
            there = self._state_there()
            if there is None:
                return
            if restart:
                self._move_aside()
                return
            own, copy = self._own_state()
            if self.home.begun:
                if own["id"] != there["id"]:
                    raise RunError(
                        f"{self.url} is a copy of another run than {self._path}. Two ways on: --run NEW, or another "
                        f"--mirror; where the copy is to go on, move {self._path} away."
                    )
                if there["updates"] <= copy["updates"]:
                    return
            self._fetch(there)

    def _fetch(self, there: dict[str, Any]) -> None:
        names = self._names()
        complete = _complete(names)
        self._check_ahead(complete)
        # From here on the directory belongs to this copy, should the rest be cut short.
        copy: dict[str, Any] = {"updates": -1, "files": {}}
        own = {"id": there["id"], "copies": {self.url: copy}}
        write_json(self._path / STATE, own)
        fetched = [f"{folder}/{step:08d}" for folder, step in complete if self._fetch_step(folder, step, names)]
        for name in sorted((n for n in names if _checkpoint(n) is None), key=_order):
            self._get(name, self._path / name)
        found = _files(self._path)
        copy["files"] = {n: found[n] for n in names if n in found and _checkpoint(n) in {None, *fetched}}
        copy["updates"] = there["updates"]
        write_json(self._path / STATE, own)
        what = ", ".join(fetched) or "no checkpoint that is newer"
        self._say(f"fetched from {self.url}: {what}, and the files beside them")

    def _check_ahead(self, complete: list[tuple[str, int]]) -> None:
        """RunError where a stage has come further here than in the mirror: one of both would be lost."""
        for folder in sorted(self._path.glob(f"stages/*/{CHECKPOINTS}")):
            name = folder.relative_to(self._path).as_posix()
            here, far = _latest(folder), max((step for f, step in complete if f == name), default=-1)
            if here > far >= 0:
                raise RunError(
                    f"{folder} has step {here}, and {self.url}, which was written from another directory since, has "
                    f"only {far}. Move {self._path} away to go on from the copy, or name another --mirror to go on "
                    "from here."
                )

    def _fetch_step(self, folder: str, step: int, names: set[str]) -> bool:
        """Copy a checkpoint that is newer than those here; False where there is none, or it is damaged."""
        place = self._path / folder / f"{step:08d}"
        if step <= _latest(place.parent):
            return False
        prefix, written = f"{folder}/{step:08d}/", place.with_name(place.name + UNSYNCED)
        shutil.rmtree(written, ignore_errors=True)
        for name in sorted((n for n in names if n.startswith(prefix)), key=_order):
            self._get(name, written / name.removeprefix(prefix))
        try:
            read_document(written, step)
        except DamagedError as error:
            self._say(f"warning: {self.url}/{prefix.rstrip('/')} is left out: {error.what}")
            shutil.rmtree(written)
            return False
        publish(written, place)
        return True

    def _get(self, name: str, place: Path) -> None:
        if ".." in PurePosixPath(name).parts:
            raise RunError(f"{self.url}/{name} leads out of the run's directory.")
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        with writing(place, temporary):
            place.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{self._root}/{name}", str(temporary))
            publish(temporary, place)

    def _move_aside(self) -> None:
        n = 1
        while self._fs.exists(f"{self._root}.{n}"):
            n += 1
        names = [*sorted(self._names()), STATE]
        for name in names:
            self._fs.cp_file(f"{self._root}/{name}", f"{self._root}.{n}/{name}")
        for name in names:
            self._fs.rm_file(f"{self._root}/{name}")
        self._say(f"the copy of the earlier run was moved to {self.url}.{n}")

    def _names(self) -> set[str]:
        """Files of the copy, below its folder; of an empty one s3fs may list the folder itself."""
        self._fs.invalidate_cache()
        found = (PurePosixPath(name) for name in self._fs.find(self._root))
        return {name.relative_to(self._root).as_posix() for name in found} - {STATE, "."}

    def _state_there(self) -> dict[str, Any] | None:
        """`mirror.json` of the copy; None where there is none."""
        self._fs.invalidate_cache()
        try:
            found: dict[str, Any] = json.loads(self._fs.cat_file(f"{self._root}/{STATE}"))
        except FileNotFoundError:
            return None
        if not isinstance(found.get("id"), str) or not isinstance(found.get("updates"), int):
            raise RunError(f"{self.url}/{STATE} is no description of a run's copy.")
        return found

    def _own_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The directory's `mirror.json`, and what it says of this copy."""
        own = read_json(self._path / STATE) or {"id": None, "copies": {}}
        return own, own["copies"].setdefault(self.url, {"updates": 0, "files": {}})

    def _write_state(self, own: dict[str, Any], updates: int) -> None:
        """First here: of a copy that seems further than the directory another one would be the writer."""
        own["copies"][self.url]["updates"] = updates
        write_json(self._path / STATE, own)
        self._fs.pipe_file(f"{self._root}/{STATE}", json.dumps({"id": own["id"], "updates": updates}).encode())

    @contextlib.contextmanager
    def _told(self, done: str, remedy: str) -> Iterator[None]:
        """RunError with what a library said, whatever errors it has."""
        try:
            yield
        except JaxpoError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            said = f"{type(error).__name__}: {error}".rstrip(".")
            check = "Check the path, the credentials and the network."
            raise RunError(f"the mirror {self.url} cannot be {done}: {said}. {check} {remedy}.") from error


def _files(home: Path) -> dict[str, list[int]]:
    """Name -> size and time of change of the files that are copied."""
    found = {}
    for root, folders, files in os.walk(home):
        here = Path(root)
        if here.name in STORES:
            folders[:], files = [name for name in folders if name.isdigit()], []
        if here == home:
            folders[:], files = ([n for n in names if n not in _OWN] for names in (folders, files))
        folders[:] = [n for n in folders if not (n.startswith(".") or LEFT_FOLDER.fullmatch(n))]
        for name in files:
            if not (name.startswith(".") or LEFT_FILE.fullmatch(name)):
                with contextlib.suppress(FileNotFoundError):
                    about = (here / name).stat()
                    found[(here / name).relative_to(home).as_posix()] = [about.st_size, about.st_mtime_ns]
    return found


def _order(name: str) -> tuple[int, str]:
    """What says that something is complete follows what it speaks of."""
    return (2 if name == "finished.json" else 1 if name.endswith(f"/{FILES}") else 0), name


def _checkpoint(name: str) -> str | None:
    """The checkpoint that a file belongs to."""
    parts = PurePosixPath(name).parts
    ends = (i for i in range(1, len(parts) - 1) if parts[i].isdigit() and parts[i - 1] in STORES)
    return next(("/".join(parts[: i + 1]) for i in ends), None)


def _complete(names: set[str]) -> list[tuple[str, int]]:
    """`(folder, step)` of the checkpoints that are there as a whole."""
    found = {c for name in names if (c := _checkpoint(name)) is not None and f"{c}/{FILES}" in names}
    return sorted((str(PurePosixPath(c).parent), int(PurePosixPath(c).name)) for c in found)


def _latest(folder: Path) -> int:
    """Newest step in a folder of checkpoints; -1 where there is none."""
    return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=-1)
