"""Parameters that do not change (a reference, a teacher), saved once with the hash of their content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore

Tree = Any


def save_params(directory: Path | str, params: Tree, meta: Mapping[str, Any] | None = None) -> str:
    """Write a tree of arrays and return its `fingerprint`; a directory that already holds this very tree is left alone.

    Raises:
      CheckpointError: the write failed.
    """
    store = CheckpointStore(directory, keep=1)
    digest = fingerprint(params)
    latest = store.latest()
    if latest is None or store.meta(latest)["fingerprint"] != digest:
        # A higher number rather than a rewrite: until the new one is complete the old one stays.
        store.save(0 if latest is None else latest + 1, params, {"fingerprint": digest, "meta": dict(meta or {})})
        store.wait()
    return digest


def load_params(directory: Path | str, abstract: Tree) -> tuple[Tree, str, dict[str, Any]]:
    """Read what `save_params` wrote onto the shardings of `abstract`: `(params, fingerprint, meta)`.

    Raises:
      CheckpointError: absent, damaged, or other leaves, shapes or dtypes than `abstract` has.
    """
    params, stored = CheckpointStore(directory, keep=None).restore(None, abstract)
    return params, stored["fingerprint"], stored["meta"]
