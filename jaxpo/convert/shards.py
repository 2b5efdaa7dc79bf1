"""Sharded safetensors folders: written one tensor at a time, read lazily, nothing but safetensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpo.convert.config_json import read_json
from jaxpo.errors import CheckpointError, ConfigError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"float32": ("F32", np.dtype(np.float32)), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}
READABLE = ("F64", "F32", "F16", "BF16")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Source:
    """A tensor to write: its name, its shape on disk, and how to get its values (called once, when its turn comes)."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


def parse_size(size: int | str) -> int:
    """Bytes from a number or from text such as "5GB", "500MB", "16KB" (powers of 1000); ConfigError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|B)?", str(size).strip(), re.IGNORECASE)
    factor = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    value = int(float(match[1]) * factor[(match[2] or "B").upper()]) if match else 0
    if value < 1:
        raise ConfigError(f"max_shard_size is {size!r}; give a number of bytes or a size such as '5GB'")
    return value


def write_shards(folder: Path, sources: list[Source], dtype: str, max_shard_size: int) -> None:
    """Write `sources` into as few files as `max_shard_size` allows, with an index when there are several."""
    if dtype not in DTYPES:
        raise ConfigError(f"export dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    width = DTYPES[dtype][1].itemsize
    groups = _group(sources, width, max_shard_size)
    if len(groups) == 1:
        _write_file(folder / SINGLE, groups[0], dtype)
        return
    names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    for name, group in zip(names, groups, strict=True):
        _write_file(folder / name, group, dtype)
    count = sum(int(np.prod(s.shape)) for s in sources)
    index = {
        "metadata": {"total_size": count * width, "total_parameters": count},
        "weight_map": {s.name: name for name, group in zip(names, groups, strict=True) for s in group},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _group(sources: list[Source], width: int, limit: int) -> list[list[Source]]:
    groups: list[list[Source]] = [[]]
    used = 0
    for source in sources:
        size = int(np.prod(source.shape)) * width
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(source)
        used += size
    return groups


def _write_file(file: Path, sources: list[Source], dtype: str) -> None:
    """The safetensors format: header length (8 bytes, little-endian), JSON header, values back to back."""
    code, numpy_dtype = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for source in sources:
        size = int(np.prod(source.shape)) * numpy_dtype.itemsize
        header[source.name] = {"dtype": code, "shape": list(source.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for source in sources:
            values = np.ascontiguousarray(source.load(), dtype=numpy_dtype)
            if values.shape != source.shape:
                raise ValueError(f"{source.name}: declared {source.shape}, got {values.shape}")
            out.write(values.reshape(-1).view(np.uint8).data)
        out.flush()
        os.fsync(out.fileno())


@dataclass(frozen=True)
class Stored:
    """A tensor in an open folder; `read` loads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@contextmanager
def open_shards(folder: Path) -> Iterator[Mapping[str, Stored]]:
    """A folder's tensors by name, none loaded yet; CheckpointError for files absent, cut off or of another type."""
    with ExitStack() as stack:
        tensors: dict[str, Stored] = {}
        for file in _files(folder):
            try:
                opened = stack.enter_context(safe_open(file, framework="np"))
                tensors |= {name: _stored(opened, name) for name in opened.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file}: not a complete safetensors file ({error}); copy or download it again."
                ) from error
        yield tensors


def _stored(opened: Any, name: str) -> Stored:
    view = opened.get_slice(name)
    return Stored(tuple(view.get_shape()), view.get_dtype(), lambda: opened.get_tensor(name))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        if folder.suffix in _PICKLES:
            raise CheckpointError(_refusal(folder))
        raise CheckpointError(f"{folder}: no such folder; give a folder with config.json and {SINGLE}.")
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / INDEX}: has no weight_map; copy or download it again.")
        names = sorted(set(weight_map.values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise CheckpointError(f"{folder}: {INDEX} names files that are missing: {', '.join(absent)}.")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickles = sorted(f for f in folder.iterdir() if f.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(_refusal(pickles[0]))
    raise CheckpointError(f"{folder}: holds neither {SINGLE} nor {INDEX}.")


def _refusal(file: Path) -> str:
    return (
        f"{file}: {file.suffix} files are pickles, which can run code when opened, and are never read. "
        "Save the model again with save_pretrained(..., safe_serialization=True) and import the safetensors."
    )
