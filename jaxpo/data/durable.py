"""Files that outlive a power cut, and the digests by which damage to them is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGEST = "digest"
BLOCK = 1 << 22
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems answer that cannot sync a folder: there the rename alone has to do."""


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, before anything that follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` for every file and folder below one, and then itself."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file or folder its name: its content is on disk before, and its name is when this returns."""
    (sync_tree if temporary.is_dir() else sync)(temporary)
    temporary.replace(path)
    sync(path.parent)


def crc32_of(file: Path) -> str:
    """8 hexadecimal digits of a file's content, read in one pass of 4 MiB at a time.

    It notices what disks and copies do, at the speed of the memory; it is no protection against intent.
    """
    value, buffer = 0, bytearray(BLOCK)
    with file.open("rb", buffering=0) as stream:
        while n := stream.readinto(buffer):
            value = zlib.crc32(memoryview(buffer)[:n], value)
    return f"{value:08x}"


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON document with the digest of its content as `digest`, which `intact` checks."""
    content = {name: value for name, value in document.items() if name != DIGEST}
    return {**content, DIGEST: _digest(content)}


def intact(document: Mapping[str, Any]) -> bool:
    """Whether a document is what was sealed. One without a digest, of an earlier version, is believed."""
    return DIGEST not in document or document[DIGEST] == seal(document)[DIGEST]


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
