"""Files that lie elsewhere (`s3://`, `gs://`, `https://`): copied once through fsspec, and read as any other.

A path with a scheme is what asks for the network. Failures are retried as the library for the scheme is told to
(botocore's configuration for S3); none are retried here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxpo.data.durable import publish
from jaxpo.data.rows.files.listing import NOTES
from jaxpo.data.rows.files.readers import is_data
from jaxpo.errors import FULL, ConfigError, DataError, writing

EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http", "memory": ""}
"""Scheme -> the extra of jaxpo that brings its library."""
SCHEME = "://"
FOLDER, SUFFIX = "remote", ".remote"


def is_remote(name: str) -> bool:
    """Whether a path has a scheme."""
    return SCHEME in name


def place_of(url: str, directory: Path) -> Path:
    """Where the copy of a remote file or folder lies, below `directory`.

    Raises:
      ConfigError: a path that leads out of its own folder.
    """
    scheme, _, path = url.partition(SCHEME)
    path, _, query = path.partition("?")
    parts = PurePosixPath(path).parts
    if ".." in parts or not parts:
        raise ConfigError(f"{url}: is no path of a file or folder; write it out, without `..`.")
    # Addresses that differ in their query alone are different files.
    apart = (hashlib.sha256(query.encode()).hexdigest()[:16],) if query else ()
    return directory / FOLDER / scheme / Path(*apart, *(part for part in parts if part != "/"))


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
      ConfigError: no such scheme, or its library is not installed; names the extra.
    """
    scheme = url.partition(SCHEME)[0]
    if scheme not in EXTRAS:
        raise ConfigError(f"{url}: files are read from {', '.join(f'{s}{SCHEME}' for s in EXTRAS)} and local paths.")
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ConfigError(f"{url}: needs {error.name or 'fsspec'}: pip install 'jaxpo[{EXTRAS[scheme]}]'.") from error


def fetch(urls: Iterable[str], directory: Path, say: Callable[[str], None]) -> None:
    """Copy what of these is remote, unless the copy is there and the original has not changed since.

    Raises:
      DataError: nothing there, or it could not be read; with what the library said.
    """
    for url in filter(is_remote, urls):
        fs, place = filesystem(url), place_of(url, directory)
        try:
            for source, target in _files(fs, url, place):
                _copy(fs, source, target, say)
        except DataError:
            raise
        except Exception as error:  # libraries of other services have errors of their own
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            said = f"{type(error).__name__}: {error}".rstrip(".")
            remedy = "Check the path, the credentials and the network."
            raise DataError(f"cannot be read: {said}.", file=url, remedy=remedy) from error


def _files(fs: Any, url: str, place: Path) -> Iterator[tuple[str, Path]]:
    """What is copied, and to where: the file, or the data files below a folder."""
    root = fs._strip_protocol(url)
    if fs.isfile(root):
        yield root, place
        return
    found = False
    for source in sorted(fs.find(root)):
        inside = PurePosixPath(source).relative_to(root)
        if ".." not in inside.parts and (is_data(Path(inside)) or inside.name in NOTES):
            found = True
            yield source, place / inside
    if not found:
        raise DataError("no such file, or folder with data files.", file=url, remedy="Check the path.")


def _copy(fs: Any, source: str, target: Path, say: Callable[[str], None]) -> None:
    """One file, whole or not at all; what tells its state from another is kept beside it."""
    info = fs.info(source)
    state = {"size": info.get("size"), "state": str(fs.ukey(source))}
    note = target.with_name(f".{target.name}{SUFFIX}")
    if target.is_file() and note.is_file() and json.loads(note.read_text()) == state:
        return
    say(f"copying {fs.unstrip_protocol(source)} ({info.get('size') or '?'} bytes)")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.copying")
    note.unlink(missing_ok=True)
    try:
        with writing(target.parent):
            fs.get_file(source, str(temporary))
            if state["size"] is not None and temporary.stat().st_size != state["size"]:
                raise DataError(
                    f"{temporary.stat().st_size} of {state['size']} bytes arrived.",
                    file=fs.unstrip_protocol(source),
                    remedy="Start again.",
                )
            publish(temporary, target)
            note.write_text(json.dumps(state))
    finally:
        temporary.unlink(missing_ok=True)
