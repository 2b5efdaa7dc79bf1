"""Whether the files of a checkpoint are those that were written, as far as can be told without its arrays.

`meta.json` carries a digest of itself, and `files.json` the sizes of all files and the content of the small ones, among
them every index of the arrays. The arrays' values are compared when they are read, by the fingerprints in `meta.json`.
A checkpoint of an earlier version has neither digest nor `files.json`, and is believed.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import jax

from jaxpo.config.json_text import parse
from jaxpo.data.durable import DIGEST, crc32_of, intact, seal
from jaxpo.errors import CheckpointError, DamagedError

FORMAT = 1
META, FILES = Path("meta", "meta.json"), Path("files.json")
PARTS = ("step", "leaves", "fingerprints", "environment", "meta")
SMALL = 1 << 20
"""Bytes up to which a file's content is compared and not its size alone."""
_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.ENODEV),
    *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN),
)
_WORDS = (
    *("PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"),
    *map(os.strerror, _MACHINE),
)


def write_files(directory: Path) -> None:
    """Describe all files of a checkpoint that is complete, in `files.json`."""
    found = {p.relative_to(directory).as_posix(): _described(p) for p in sorted(directory.rglob("*")) if p.is_file()}
    (directory / FILES).write_text(json.dumps(seal({"files": found})))


def check_files(directory: Path) -> None:
    """DamagedError naming the first file that is absent or not as it was written."""
    try:
        described = parse((directory / FILES).read_text())
        if not intact(described):
            raise DamagedError(f"{directory / FILES} is not as it was written")
        for name, known in described["files"].items():
            file = directory / name
            if not file.is_file():
                raise DamagedError(f"{file} is missing")
            size = file.stat().st_size
            if size != known[0]:
                raise DamagedError(f"{file} has {size} bytes instead of {known[0]}")
            if _described(file) != known:
                raise DamagedError(f"{file} is not as it was written")
    except FileNotFoundError as error:
        raise DamagedError(f"{error.filename} is missing") from error
    except OSError as error:
        raise unreadable(directory, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{directory / FILES} cannot be read: {short(error)}") from error


def read_document(directory: Path, step: int) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
      DamagedError: it says nothing, or is not what was written for this step.
      CheckpointError: it is of another format, or cannot be read here.
    """
    file = directory / META
    try:
        document = parse(file.read_text())
        if not intact(document):
            raise DamagedError(f"{file} is not as it was written")
        if document["format"] != FORMAT:
            raise CheckpointError(f"{file}: format {document['format']}, this version of jaxpo reads {FORMAT}")
        if document["step"] != step:
            raise DamagedError(f"{file} is of step {document['step']}: the folder was renamed")
        if DIGEST in document:
            check_files(directory)
        return {name: document[name] for name in PARTS}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{file} is missing: this is no jaxpo checkpoint, or an incomplete one") from error
    except OSError as error:
        raise unreadable(directory, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file} cannot be read ({short(error)})") from error


def unreadable(directory: Path, error: BaseException) -> CheckpointError:
    """What is said where this machine cannot read a checkpoint that may be in order."""
    return CheckpointError(
        f"checkpoint {directory} cannot be read: {short(error)}. Nothing says that it is damaged: see to its "
        "permissions, the disk or the memory, and run the same command again."
    )


def is_machine(error: BaseException) -> bool:
    """Whether a read failed for a reason that says nothing about the files."""
    link: BaseException | None = error
    while link is not None:
        # A device that has no room, or fails, is none of the files': TensorStore raises other errors.
        ours = isinstance(link, MemoryError | PermissionError | jax.errors.JaxRuntimeError)
        if ours or any(word in str(link) for word in _WORDS):
            return True
        link = link.__cause__ or link.__context__
    return False


def short(error: BaseException) -> str:
    """The innermost exception that says something, without the driver specification that TensorStore appends."""
    text = ""
    link: BaseException | None = error
    while link is not None:
        words = " ".join(str(link).split("[tensorstore_spec")[0].split())
        text = words if len(words) > 8 else text
        link = link.__cause__ or link.__context__
    text = (text or type(error).__name__).rstrip(". ")
    return text if len(text) <= 400 else f"{text[:400]} ..."


def unreadable_json(directory: Path) -> str:
    """The first of Orbax's JSON files in a checkpoint that cannot be parsed: its own message does not name it."""
    for file in sorted([*directory.glob("state/_METADATA"), *directory.glob("state/array_metadatas/*")]):
        try:
            json.loads(file.read_text())
        except (OSError, ValueError):
            return f"{file} cannot be read: "
    return ""


def _described(file: Path) -> list[Any]:
    """Size, and the digest of a small file's content."""
    size = file.stat().st_size
    return [size, crc32_of(file) if size <= SMALL else None]
