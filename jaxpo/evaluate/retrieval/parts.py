"""The vectors of documents, kept part by part: an index that was interrupted in the making goes on where it stood."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxpo.config.json_text import parse
from jaxpo.errors import ConfigError
from jaxpo.evaluate.retrieval.embedder import Embedder
from jaxpo.evaluate.retrieval.index import Stored
from jaxpo.evaluate.score import Progress

PARTS, ABOUT = "parts", "about.json"
SIZE = 2048
"""Documents of a part."""


def in_parts(
    embedder: Embedder,
    texts: Sequence[str],
    folder: Path,
    dtype: Stored,
    *,
    anew: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda *_: None,
) -> list[np.ndarray]:
    """The vectors `[T, E]` of every text; those that an earlier try left in `folder/parts` are not made again.

    Args:
      anew: whether what lies there of other documents, of another model or type is removed.

    Raises:
      ConfigError: such things lie there, and are to stay.
    """
    place = _begun(folder / PARTS, embedder, texts, dtype, anew)
    starts = range(0, len(texts), SIZE)
    there = [start for start in starts if _file(place, start).is_file()]
    if there:
        done = sum(min(SIZE, len(texts) - start) for start in there)
        say(f"{folder}: {done:,} of {len(texts):,} documents have vectors already; making the others")
    found: list[np.ndarray] = []
    for start in starts:
        file = _file(place, start)
        if not file.is_file():
            own = embedder.documents(texts[start : start + SIZE], _after(start, len(texts), progress))
            _write(file, own, dtype)
        found.extend(_read(file))
    return found


def _after(start: int, total: int, progress: Progress) -> Progress:
    """Progress of a part, told as that of the whole."""
    return lambda done, _: progress(start + done, total)


def discard(folder: Path) -> None:
    """Remove the parts of an index that is finished, or that is made anew."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _begun(place: Path, embedder: Embedder, texts: Sequence[str], dtype: Stored, anew: bool) -> Path:
    """The folder of the parts, which says what they are of."""
    documents = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    about = {"model": embedder.hash, "documents": documents, "dtype": dtype, "size": SIZE}
    if (place / ABOUT).is_file() and parse((place / ABOUT).read_text(encoding="utf-8")) != about:
        if not anew:
            raise ConfigError(
                f"{place.parent}: holds the beginning of an index of other documents, of another model or --dtype; "
                "choose another folder, or --overwrite."
            )
        discard(place.parent)
    place.mkdir(parents=True, exist_ok=True)
    (place / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    return place


def _file(place: Path, start: int) -> Path:
    return place / f"{start:09d}.safetensors"


def _write(file: Path, documents: Sequence[np.ndarray], dtype: Stored) -> None:
    """Under its name only when it is whole; what is to be 8 bits is float32 until the index is made."""
    dtype = "float32" if dtype == "int8" else dtype
    lengths = np.asarray([len(document) for document in documents], np.int64)
    partial = file.with_suffix(".partial")
    save_file({"vectors": np.concatenate([np.asarray(d, dtype) for d in documents]), "lengths": lengths}, partial)
    os.replace(partial, file)


def _read(file: Path) -> Iterator[np.ndarray]:
    with safe_open(file, framework="numpy") as stored:
        vectors, lengths = stored.get_tensor("vectors"), stored.get_tensor("lengths")
    return iter(np.split(vectors, np.cumsum(lengths)[:-1]))
