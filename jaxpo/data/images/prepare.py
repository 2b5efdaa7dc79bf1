"""Files and folders to a data set of images: checked before, counted during, cached after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.image_data import ImageData
from jaxpo.data.images.dataset import ImageDataset, ImageShape
from jaxpo.data.images.forms import METHOD, contents, listed
from jaxpo.data.images.reading import Reading
from jaxpo.data.images.states import empty_states
from jaxpo.data.images.store import FORMAT, Stored, open_or_write
from jaxpo.data.rows.bad_rows import check_number
from jaxpo.data.rows.files.splits import Part
from jaxpo.data.rows.formats import content_hash
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import DataError

SHOWN = 3


def prepare_images(
    files: Sequence[str],
    *,
    data: Data,
    images: ImageData,
    shape: ImageShape,
    tokenizer: Tokenizer,
    needs: Needs,
    cache_dir: Path,
    log: Callable[[str], None] = print,
    part: Part = "train",
    reward_range: tuple[float, float] | None = None,
    method: str = METHOD,
    words: bool = False,
) -> ImageDataset:
    """Read files and folders once and reuse the result.

    Args:
      needs: what the method asks of the rows: the roles "image" or "chosen" and "rejected", or "caption" where it draws
        its own images, and columns.
      reward_range: that of the training rows, for held-out ones.
      method: its name, for messages.
      words: it reads the words of captions, whatever states there are.

    Raises:
      DataError: any example that cannot be used; names file, row, field and remedy.
    """
    folders, tables = listed(files, part, log)
    paths = [*tables, *(path for folder in folders for path in contents(folder))]
    empty = None if images.empty_states is None else empty_states(Path(images.empty_states), shape.states)
    settings = {
        "data": _used(data),
        "images": asdict(images),
        "shape": asdict(shape),
        "needs": asdict(needs),
        "words": words,
    }
    about = [content_hash(paths), *(p.name for p in paths), tokenizer.hash, str(FORMAT), json.dumps(settings)]
    about += [] if empty is None else [hashlib.sha256(empty.tobytes()).hexdigest()]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()

    def write(add: Callable[[Stored], None]) -> dict[str, Any]:
        log(f"reading images of {len(tables)} file(s) and {len(folders)} folder(s)")
        return Reading(tables, folders, data, images, shape, tokenizer, needs, method, words).write(add)

    store = open_or_write(cache_dir / key[:16], key, write, log)
    meta = store.meta
    if not len(store):
        raise DataError("no example is left.", file=paths[0], remedy=f"Counts: {_told(meta['counts'])}.")
    if empty is not None and not meta["states"]:
        remedy = "Leave images.empty_states out: the model's text tower reads the empty caption as it reads others."
        raise DataError("has captions and no states of texts.", file=paths[0], remedy=remedy)
    check_number(len(meta["bad_rows"]), data.max_bad_rows)
    for row in meta["bad_rows"][:SHOWN]:
        log(f"warning: left out: {paths[row['file']]}, row {row['row']}: {row['problem']}")
    log(f"{len(store)} {_name_of(needs)} ({_told(meta['counts'])})")
    found = meta["reward_range"] if reward_range is None else reward_range
    tokens = meta["user_tokens"]
    return ImageDataset(
        store,
        data,
        images,
        shape,
        tuple(meta["columns"]),
        meta["counts"],
        tuple(map(str, paths)),
        key,
        None if found is None else (float(found[0]), float(found[1])),
        None if tokens is None else np.asarray(tokens, np.float32),
        empty,
    )


def _name_of(needs: Needs) -> str:
    """What an example is."""
    return "pairs" if "chosen" in needs.roles else "captions" if "caption" in needs.roles else "images"


def _used(data: Data) -> dict[str, Any]:
    """The settings that decide what is stored."""
    return {name: getattr(data, name) for name in ("max_length", "truncation", "on_bad_row", "max_bad_rows")}


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items() if n or name in ("read", "kept"))
