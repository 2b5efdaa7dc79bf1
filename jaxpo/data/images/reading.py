"""Rows and folders -> stored examples: checked one by one, and counted."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.images import Images
from jaxpo.data.images.captions import encoded
from jaxpo.data.images.dataset import USER_TOKENS, ImageShape
from jaxpo.data.images.folders import TEXTS, folder_items, images_in, is_image_folder, is_pair_folder
from jaxpo.data.images.formats import FORMATS, TIE, UNLABELLED, Item, format_of
from jaxpo.data.images.pixels import arrays_of
from jaxpo.data.images.store import Stored
from jaxpo.data.images.users import check_supports, embeddings, pooled
from jaxpo.data.rows.bad_rows import BadRows
from jaxpo.data.rows.files.splits import Part
from jaxpo.data.rows.formats import list_files, read_rows
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import DataError


def listed(files: Sequence[str], part: Part, log: Callable[[str], None]) -> tuple[list[Path], list[Path]]:
    """Folders of images, and the files of rows that the other names stand for."""
    folders = [Path(name) for name in files if is_image_folder(Path(name))]
    others = [name for name in files if Path(name) not in folders]
    return folders, list_files(others, part=part, say=log) if others else []


def contents(folder: Path) -> list[Path]:
    """The files of a folder that are read: images and the texts beside them."""
    found = images_in(folder)
    texts = [path.with_suffix(suffix) for path in found for suffix in TEXTS]
    return found + [path for path in texts if path.is_file()]


class Reading:
    """One reading of all files, and what is counted of it."""

    def __init__(
        self,
        tables: Sequence[Path],
        folders: Sequence[Path],
        data: Data,
        images: Images,
        shape: ImageShape,
        tokenizer: Tokenizer,
        needs: Needs,
    ):
        self.tables, self.folders = tables, folders
        self.data, self.images, self.shape, self.tokenizer, self.needs = data, images, shape, tokenizer, needs
        self.counts = Counter[str](read=0, kept=0)
        every = [*tables, *(path for folder in folders for path in contents(folder))]
        self.bad = BadRows(data, self.counts, every)
        self.reads_pairs = "chosen" in needs.roles
        self.supports: dict[str, list[np.ndarray]] = {}
        self.numbers: dict[str, int] = {}
        self.trained: set[str] = set()
        self.given: dict[str, list[Any]] = {}
        self.rewards: list[float] = []
        self.states = 0

    def write(self, add: Callable[[Stored], None]) -> dict[str, Any]:
        """Store every example that can be used; returns what is kept beside them."""
        for item in self.items():
            self.counts["read"] += 1
            try:
                stored = self.stored(item)
            except DataError as error:
                self.bad(error)
                continue
            if stored is not None:
                self.counts["kept"] += 1
                add(stored)
        return {
            "pairs": self.reads_pairs,
            "counts": dict(self.counts),
            "columns": [name for name in ("rewards", "user", "weight", "label") if self._is_read(name)],
            "bad_rows": self.bad.listed,
            "reward_range": [min(self.rewards), max(self.rewards)] if self.rewards else None,
            "states": self.states,
            "user_tokens": self._user_tokens(),
        }

    def items(self) -> Iterator[Item]:
        """All examples, of files first."""
        for row in read_rows(self.tables, bad=self._unparsed) if self.tables else ():
            try:
                name = format_of(row)
                self._right_kind(FORMATS[name].pairs, name, row.error)
                yield from FORMATS[name].read(row, self.images)
            except DataError as error:
                self._unparsed(error)
        for folder in self.folders:
            self._right_kind(is_pair_folder(folder), "folder", functools.partial(DataError, file=folder))
            yield from folder_items(folder)

    def _unparsed(self, error: DataError) -> None:
        self.counts["read"] += 1
        self.bad(error)

    def _right_kind(self, pairs: bool, name: str, error: Callable[..., DataError]) -> None:
        if pairs == self.reads_pairs:
            return
        if pairs:
            raise error(
                f"holds pairs ({name}), and the method reads single images.",
                remedy="Give images with captions, or choose a loss on pairs: --STAGE.loss diffusion_dpo.",
            )
        raise error(
            f"holds single images ({name}), and the method reads pairs.",
            remedy="Give pairs: chosen_image and rejected_image, or folders w/ and l/.",
        )

    def stored(self, item: Item) -> Stored | None:
        """An example as it is stored; None: it is left out, and counted."""
        if self._left_out(item):
            return None
        segments: tuple[np.ndarray, ...] | None = ()
        if item.states is None:
            segments = encoded(item, self.tokenizer, self.data, self.images.segments, self.counts)
        states = None if item.states is None else self._states_of(item)
        if segments is None:
            return None
        arrays = tuple(arrays_of(item, self.shape.size, self.shape.channels))
        columns = self._columns_of(item)
        if self._is_read("user") and self._set_aside(item, arrays, columns):
            self.counts["set_aside_for_users"] += 1
            return None
        self.rewards += columns.get("rewards", ())
        return Stored(arrays, segments, states, columns)

    def _left_out(self, item: Item) -> bool:
        if item.columns.get(UNLABELLED):
            self.counts["dropped_unlabelled"] += 1
            return True
        if not item.columns.get(TIE):
            return False
        if self.images.ties == "error":
            remedy = "images.ties 'skip' leaves such pairs out and counts them."
            raise item.error("nobody prefers one of the two images.", remedy=remedy)
        self.counts["ties"] += 1
        return self.images.ties == "skip"

    def _is_read(self, column: str) -> bool:
        return column in self.needs.columns or (column == "weight" and self.images.per_prompt)

    def _columns_of(self, item: Item) -> dict[str, Any]:
        found = {}
        for name in ("rewards", "user", "weight", "label"):
            if not self._is_read(name):
                continue
            if name not in item.columns:
                raise item.error("is not there, and the method reads it.", field=name, remedy=REMEDIES[name])
            value = item.columns[name]
            found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def _set_aside(self, item: Item, arrays: Sequence[np.ndarray], columns: dict[str, Any]) -> bool:
        """Whether a pair is one of those that its user is known by; else the user's number takes the name's place."""
        name, users = columns["user"], self.images.users
        columns["user"] = self.numbers.setdefault(name, len(self.numbers))
        if USER_TOKENS in item.columns:
            tokens = self._tokens_of(item)
            self.given.setdefault(name, tokens)
        else:
            known = self.supports.setdefault(name, [])
            if len(known) < users.support:
                known.append(pooled(arrays[0], users.cells) - pooled(arrays[1], users.cells))
                return True
        self.trained.add(name)
        return False

    def _tokens_of(self, item: Item) -> list[Any]:
        users = self.images.users
        values = np.asarray(item.columns[USER_TOKENS], np.float32)
        if values.shape != (users.tokens, users.width) or not np.isfinite(values).all():
            what = f"is no finite array of {users.tokens} x {users.width}."
            raise item.error(what, field=USER_TOKENS, remedy="Set images.users.tokens and width to what the rows have.")
        found: list[Any] = values.tolist()
        return found

    def _user_tokens(self) -> list[Any] | None:
        if not self._is_read("user"):
            return None
        if self.supports and self.given:
            raise DataError("some rows have user_tokens and others have none.", field=USER_TOKENS)
        if self.given:
            return list(self.given.values())
        check_supports(self.supports, self.trained, self.images.users)
        found: list[Any] = embeddings([np.stack(x) for x in self.supports.values()], self.images.users).tolist()
        return found

    def _states_of(self, item: Item) -> np.ndarray:
        values = np.asarray(item.states, np.float32)
        if values.ndim != 2 or values.shape[1] != self.shape.states or not np.isfinite(values).all():
            what = f"is no finite array [L][{self.shape.states}], the width of the model's text states."
            raise item.error(what, field="states")
        self.states = max(self.states, len(values))
        return values.astype(np.float16)


REMEDIES = {
    "rewards": "Add score_0 and score_1: the rewards of the two images; `jaxpo data score-images` writes them.",
    "user": "Add a column `user`: whose preference the pair shows.",
    "weight": "Add a column `weight`: a positive number, how much the row counts.",
    "label": "Add a column `label`: true for good images, false for bad ones.",
}
