"""A batch on disk, for looking at what made training fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.packing.batch import Batch, Media

_DICTS = ("masks", "per_token", "per_segment", "per_example", "roles")
_STATIC = ("block_rows", "slots", "max_segment")


def dump_batch(path: Path, batch: Batch, info: Mapping[str, Any]) -> None:
    """Write every array of a batch (this process's rows) and `info` to one .npz file without pickles."""
    arrays = {name: np.asarray(getattr(batch, name)) for name in ("tokens", "segment_ids", "positions", "example_id")}
    for group in _DICTS:
        arrays |= {f"{group}/{name}": _plain(np.asarray(x)) for name, x in getattr(batch, group).items()}
    for kind, media in batch.media.items():
        arrays |= {f"media/{kind}/{f.name}": _plain(np.asarray(getattr(media, f.name))) for f in fields(media)}
    static = {name: getattr(batch, name) for name in _STATIC}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, info=np.array(json.dumps({**info, "static": static})), **arrays)  # type: ignore[arg-type]


def _plain(x: np.ndarray) -> np.ndarray:
    """bfloat16 as float32: .npz knows numpy's own types only."""
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def load_dump(path: Path | str) -> tuple[Batch, dict[str, Any]]:
    """Inverse of `dump_batch`: `(batch, info)`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    info = json.loads(str(arrays.pop("info")))
    found: dict[str, Any] = {group: {} for group in (*_DICTS, "media")}
    for name, x in arrays.items():
        group, _, rest = name.partition("/")
        if rest:
            found[group][rest] = x
        else:
            found[name] = x
    flat = found.pop("media")
    kinds = {name.split("/")[0] for name in flat}
    media = {kind: Media(**{f.name: flat[f"{kind}/{f.name}"] for f in fields(Media)}) for kind in kinds}
    return Batch(**found, media=media, **info.pop("static")), info
