"""An index on disk: the vectors of a corpus, which of them belong to which document, and of what model they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxpo.config.json_text import parse
from jaxpo.data.rows.json_lines import as_json
from jaxpo.errors import CheckpointError, ConfigError

VECTORS, DOCUMENTS, ABOUT = "vectors.safetensors", "documents.jsonl", "index.json"
Stored = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Index:
    """The vectors of documents, one after another.

    Attributes:
      vectors: `[n, E]`, float32, float16 or int8.
      offsets: int64 `[N + 1]`; document i has the vectors offsets[i] to offsets[i + 1].
      ids, texts: of the documents.
      about: "model", the hash of what made the vectors; "source", where that was; "retriever".
      scales: float32 `[n]`, of int8 alone: what its numbers are multiplied by, the largest of a vector over 127.
    """

    vectors: np.ndarray
    offsets: np.ndarray
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    about: dict[str, Any]
    scales: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def floats(self, rows: Any = slice(None)) -> np.ndarray:
        """Some vectors in float32."""
        found = self.vectors[rows].astype(np.float32)
        return found if self.scales is None else found * self.scales[rows, None]

    def check_model(self, found: str, where: object = "the model") -> None:
        """ConfigError unless the vectors are of the model with this hash."""
        if found != self.about.get("model"):
            raise ConfigError(
                f"the index is of another model than {where} (its hash is {str(self.about.get('model'))[:12]}, not "
                f"{found[:12]}); scores between their vectors mean nothing. Make the index again with `jaxpo data "
                "embed`, or name the model that it is of with --model."
            )


def check_ids(ids: Sequence[str]) -> None:
    """ConfigError for two documents of one id."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise ConfigError(f"two documents have the id {twice!r}; ids must be unique.")


def make_index(
    documents: Sequence[np.ndarray], ids: Sequence[str], texts: Sequence[str], about: dict[str, Any], dtype: Stored
) -> Index:
    """Put the vectors of documents one after another.

    Raises:
      ConfigError: two documents of one id.
    """
    check_ids(ids)
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    if dtype != "int8":
        vectors = np.concatenate([np.asarray(d, dtype) for d in documents])
        return Index(vectors, offsets, tuple(ids), tuple(texts), about)
    rounded = [_rounded(np.asarray(d, np.float32)) for d in documents]
    vectors, scales = (np.concatenate(part) for part in zip(*rounded, strict=True))
    return Index(vectors, offsets, tuple(ids), tuple(texts), about, scales)


def _rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in 8 bits, and what each is to be multiplied by."""
    scales = np.abs(vectors).max(axis=1, initial=0.0) / 127
    rounded = np.rint(vectors / np.where(scales > 0, scales, 1.0)[:, None])
    return rounded.astype(np.int8), scales.astype(np.float32)


def save_index(index: Index, folder: Path) -> None:
    """Write an index, which `jaxpo retrieve` and programs that read safetensors load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)
    scales = {} if index.scales is None else {"scales": index.scales}
    save_file({"vectors": index.vectors, "offsets": index.offsets, **scales}, folder / VECTORS)
    with (folder / DOCUMENTS).open("w", encoding="utf-8") as file:
        rows = zip(index.ids, index.texts, strict=True)
        file.writelines(as_json({"_id": i, "text": text}, n) + "\n" for n, (i, text) in enumerate(rows, start=1))
    # Last, and that of an older index is gone first: a folder without it is no index.
    (folder / ABOUT).write_text(json.dumps(index.about, indent=2) + "\n", encoding="utf-8")


def remove_index(folder: Path) -> None:
    """Remove an index, and nothing else of its folder."""
    for name in (ABOUT, VECTORS, DOCUMENTS):
        (folder / name).unlink(missing_ok=True)


def load_index(folder: Path) -> Index:
    """Read an index; its vectors are read once and kept.

    Raises:
      CheckpointError: no index there, or one whose parts do not fit.
    """
    if not (folder / ABOUT).is_file():
        raise CheckpointError(f"{folder}: is no index ({ABOUT} is missing); make one with `jaxpo data embed`.")
    try:
        about = parse((folder / ABOUT).read_text(encoding="utf-8"))
        rows = [parse(line) for line in (folder / DOCUMENTS).read_text(encoding="utf-8").split("\n") if line]
        with safe_open(folder / VECTORS, framework="numpy") as stored:
            vectors, offsets = stored.get_tensor("vectors"), stored.get_tensor("offsets")
            scales = stored.get_tensor("scales") if "scales" in stored.keys() else None  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the index cannot be read ({error}); make it again.") from error
    if not isinstance(about, dict):
        raise CheckpointError(f"{folder}: {ABOUT} is no object; make the index again.")
    unscaled = (vectors.dtype == np.int8) != (scales is not None) or (
        scales is not None and len(scales) != len(vectors)
    )
    unnamed = not all(isinstance(row, dict) and isinstance(row.get(n), str) for row in rows for n in ("_id", "text"))
    fits = offsets.shape == (len(rows) + 1,) and offsets[-1] == len(vectors) and not np.any(np.diff(offsets) < 0)
    if not fits or unscaled or unnamed:
        raise CheckpointError(f"{folder}: {VECTORS} does not fit {DOCUMENTS}; make the index again.")
    ids, texts = (tuple(row[name] for row in rows) for name in ("_id", "text"))
    return Index(vectors, offsets, ids, texts, about, scales)
