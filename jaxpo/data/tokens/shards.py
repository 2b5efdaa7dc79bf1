"""A data set tokenised in shards: each kept as soon as it is finished, by whichever process, and joined at the end.

A shard is a run of whole files, the same however many processes there are, so that one process and many, stopped and
started again or not, leave the same store.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from jaxpo.data.durable import crc32_of, publish, seal
from jaxpo.data.tokens.garbage import seldom_collected
from jaxpo.data.tokens.index import PIECE, Column, offsets_of, pieces_of, write_index
from jaxpo.data.tokens.layout import merged_layouts
from jaxpo.data.tokens.store import FORMAT, INDEX, META, RECORDS, ExampleStore, Lengths, StoreWriter, check
from jaxpo.errors import writing

T = TypeVar("T")
LEAST, MOST = 128 << 20, 1024
"""Bytes that a shard has at least, unless there are no more; shards of a data set, about."""
PARTS = ".shards"


class Team(Protocol):
    """The processes that tokenise together.

    Attributes:
      index, count: of this process, and of all.
    """

    @property
    def index(self) -> int: ...
    @property
    def count(self) -> int: ...

    def first(self, do: Callable[[], T]) -> T:
        """`do()` by the first process, then by the others."""
        ...

    def by_first(self, do: Callable[[], T]) -> T:
        """What `do()` returns on the first process, which alone does it: a value that JSON can hold."""
        ...

    def every(self, do: Callable[[], None]) -> None:
        """`do()` by all; when it returns all are done. An error of one is one of all."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process by itself."""

    index: int = 0
    count: int = 1

    def first(self, do: Callable[[], T]) -> T:
        return do()

    def by_first(self, do: Callable[[], T]) -> T:
        return do()

    def every(self, do: Callable[[], None]) -> None:
        do()


ALONE = Alone()


@dataclass(frozen=True)
class Shard:
    """Part of a data set.

    Attributes:
      key: identifies everything that it depends on.
      write: fills the writer and returns metadata.
    """

    key: str
    write: Callable[[StoreWriter], dict[str, Any]]


def cut(files: Sequence[Path]) -> list[range]:
    """Numbers of the files of each shard."""
    sizes = [file.stat().st_size for file in files]
    wanted = max(LEAST, sum(sizes) // MOST)
    found, start, size = [], 0, 0
    for i, own in enumerate(sizes):
        size += own
        if size >= wanted or i + 1 == len(sizes):
            found.append(range(start, i + 1))
            start, size = i + 1, 0
    return found


def open_or_write(
    directory: Path,
    key: str,
    shards: Sequence[Shard],
    log: Callable[[str], None],
    files: Sequence[Path] = (),
    *,
    merge: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] = lambda metas: dict(metas[0]),
    team: Team = ALONE,
) -> ExampleStore:
    """The store at `directory` when it matches `key`, else a new one; the reason for a rebuild is logged.

    Args:
      directory: final place; appears only when complete (written beside it, then renamed).
      key: identifies everything the contents depend on.
      shards: every process of the team writes its share of those that are not there yet.
      files: named by `Example.file`, for messages.
      merge: metadata of the whole, from that of all shards.
    """
    # One looks for all: they must agree, and what one of them cannot read is no reason to delete it under the others.
    if not team.by_first(lambda: _usable(directory, key, log)):
        places = [directory.parent / PARTS / shard.key[:16] for shard in shards]
        if len(shards) > 1 and (there := sum(place.exists() for place in places)):
            log(f"{there} of {len(shards)} shards are tokenised already")
        mine = range(team.index, len(shards), team.count)
        team.every(lambda: _write_missing([(shards[i], places[i]) for i in mine], files))
        team.by_first(lambda: _joined(directory, key, places, merge))
    return ExampleStore(directory)


def _usable(directory: Path, key: str, log: Callable[[str], None]) -> bool:
    if not directory.exists():
        return False
    reason = check(directory, key)
    if reason is not None:
        log(f"data cache {directory.name} is damaged ({reason}): building it again")
        shutil.rmtree(directory) if directory.is_dir() else directory.unlink()
    return reason is None


def _write_missing(shards: Sequence[tuple[Shard, Path]], files: Sequence[Path]) -> None:
    for shard, place in shards:
        if place.exists() and check(place, shard.key) is None:
            continue
        shutil.rmtree(place, ignore_errors=True)
        with _beside(place) as temporary, writing(place.parent), seldom_collected():
            writer = StoreWriter(temporary, files)
            writer.finish({**shard.write(writer), "key": shard.key, "format": FORMAT})
            _publish(temporary, place)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A temporary folder beside a place; nothing is left of it, nor of a folder of shards that was made for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            if place.parent.name == PARTS:
                place.parent.rmdir()


def _joined(
    directory: Path, key: str, places: Sequence[Path], merge: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
) -> None:
    """Make one store of all shards, whose records are linked and not copied. The first process does it for all."""
    if directory.exists():
        return
    stores = [ExampleStore(place) for place in places]
    metas = [store.meta for store in stores]
    # What only the whole can show, such as rewards of different names, is an error before anything is moved.
    meta = {**merge(metas), "key": key, "format": FORMAT}
    meta |= {name: sum(m[name] for m in metas) for name in ("examples", "tokens", "bytes")}
    meta |= {name: merged_layouts([m[name] for m in metas], name) for name in ("per_token", "media")}
    of_files = [m["examples_of_files"] for m in metas]
    meta["examples_of_files"] = [sum(n[i] for n in of_files if i < len(n)) for i in range(max(map(len, of_files)))]
    with _beside(directory) as temporary, writing(directory.parent):
        names = [RECORDS] if len(places) == 1 else [_name(i, len(places)) for i in range(len(places))]
        write_index(temporary / INDEX, _columns(stores))
        parts = [
            {"file": name, "examples": m["examples"], "bytes": m["bytes"]} for name, m in zip(names, metas, strict=True)
        ]
        meta |= {"records": parts} if len(places) > 1 else {}
        meta["crc32"] = {name: m["crc32"][RECORDS] for name, m in zip(names, metas, strict=True)}
        meta["crc32"][INDEX] = crc32_of(temporary / INDEX)
        (temporary / META).write_text(json.dumps(seal(meta), indent=1))
        for name, place in zip(names, places, strict=True):
            _link(place / RECORDS, temporary / name)
        _publish(temporary, directory)
    shutil.rmtree(directory.parent / PARTS, ignore_errors=True)


def _name(i: int, n: int) -> str:
    return f"{Path(RECORDS).stem}-{i:05d}-of-{n:05d}.array_record"


def _link(source: Path, target: Path) -> None:
    """A second name, so that a kill in between loses no shard; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _columns(stores: Sequence[ExampleStore]) -> dict[str, Column]:
    """The length index of all shards together."""
    lengths = [store.lengths for store in stores]
    found = _of_parts("", lengths)
    if any(own.media is not None for own in lengths):
        found |= _of_parts("media_", [own.media or Lengths.nothing(len(own)) for own in lengths])
    return found


def _of_parts(prefix: str, lengths: Sequence[Lengths]) -> dict[str, Column]:
    counts = (np.diff(own.offsets[a : a + PIECE + 1]) for own in lengths for a in range(0, len(own), PIECE))
    values = (piece for own in lengths for piece in pieces_of(own.values))
    return {
        f"{prefix}offsets": (np.int64, sum(map(len, lengths)) + 1, offsets_of(counts)),
        f"{prefix}values": (np.int32, sum(len(own.values) for own in lengths), values),
    }


def _publish(temporary: Path, directory: Path) -> None:
    """Sync and rename into place; when another process was faster, its equal result stays."""
    try:
        publish(temporary, directory)
    except OSError:
        if not directory.exists():
            raise
