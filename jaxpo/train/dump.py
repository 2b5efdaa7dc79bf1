"""A batch on disk, for looking at what made training fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpo.config.json_text import parse
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.data.npz import read_arrays
from jaxpo.data.source import StepBatch


def dump_batch(path: Path, batch: StepBatch, info: Mapping[str, Any]) -> None:
    """Write every array of a batch (this process's rows) and `info` to one .npz file without pickles.

    Arrays go by their place, "masks/completion"; the batch itself, with these names for arrays, is part of `info`.
    """
    named = jax.tree_util.tree_map_with_path(lambda path, _: _name(path), batch)
    arrays = {_name(path): _plain(np.asarray(x)) for path, x in jax.tree_util.tree_leaves_with_path(batch)}
    about = json.dumps({**info, "batch": to_jsonable(named)})
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, info=np.array(about), **arrays)  # type: ignore[arg-type]


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _plain(x: np.ndarray) -> np.ndarray:
    """bfloat16 as float32: .npz knows numpy's own types only."""
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def load_dump(path: Path | str, *, trust_files: bool = False) -> tuple[Any, dict[str, Any]]:
    """Inverse of `dump_batch`: `(batch, info)`.

    Args:
      trust_files: also load batches whose type is not jaxpo's own, which imports its module.
    """
    arrays = read_arrays(Path(path))
    info = parse(str(arrays.pop("info")))
    named = from_jsonable(info.pop("batch"), trust_files=trust_files, where=str(path))
    return jax.tree.map(arrays.__getitem__, named), info
