"""Rows and folders -> stored examples: checked one by one, and counted."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.image_data import ImageData
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


def check_forms(files: Sequence[str], needs: Needs) -> None:
    """See that the first row of files, and every folder, is of the form that a method reads: pairs, or single images.

    Raises:
      DataError: it is not, or of no form at all.
    """
    folders, tables = listed(files, "eval", lambda line: None)
    for folder in folders:
        _right_folder(needs, folder)
    for row in itertools.islice(read_rows(tables), 1) if tables else ():
        name = format_of(row)
        _right_kind(needs, FORMATS[name].pairs, name, row.error)


def _reads_pairs(needs: Needs) -> bool:
    return "chosen" in needs.roles


def _right_folder(needs: Needs, folder: Path) -> None:
    _right_kind(needs, is_pair_folder(folder), "folder", functools.partial(DataError, file=folder))


def _right_kind(needs: Needs, pairs: bool, name: str, error: Callable[..., DataError]) -> None:
    if pairs == _reads_pairs(needs):
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


class Reading:
    """One reading of all files, and what is counted of it."""

    def __init__(
        self,
        tables: Sequence[Path],
        folders: Sequence[Path],
        data: Data,
        images: ImageData,
        shape: ImageShape,
        tokenizer: Tokenizer,
        needs: Needs,
    ):
        self.tables, self.folders = tables, folders
        self.data, self.images, self.shape, self.tokenizer, self.needs = data, images, shape, tokenizer, needs
        self.counts = Counter[str](read=0, kept=0)
        every = [*tables, *(path for folder in folders for path in contents(folder))]
        self.bad = BadRows(data, self.counts, every)
        self.supports: dict[str, list[np.ndarray]] = {}
        self.numbers: dict[str, int] = {}
        self.trained: set[str] = set()
        self.given: dict[str, list[Any]] = {}
        self.rewards: list[float] = []
        self.states = 0
        self.weighed: bool | None = True if images.per_prompt else None

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
            "pairs": _reads_pairs(self.needs),
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
                _right_kind(self.needs, FORMATS[name].pairs, name, row.error)
                yield from FORMATS[name].read(row, self.images)
            except DataError as error:
                self._unparsed(error)
        for folder in self.folders:
            _right_folder(self.needs, folder)
            yield from folder_items(folder)

    def _unparsed(self, error: DataError) -> None:
        self.counts["read"] += 1
        self.bad(error)

    def stored(self, item: Item) -> Stored | None:
        """An example as it is stored; None: it is left out, and counted."""
        self._check_alike(item)
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
        self.states = max(self.states, 0 if states is None else len(states))
        return Stored(arrays, segments, states, columns)

    def _check_alike(self, item: Item) -> None:
        """All rows have captions or all have states, and a weight or none: the first decides."""
        if self.counts["kept"] and (item.states is not None) != bool(self.states):
            what = "its text is states, and" if item.states is not None else "its text is a caption, and"
            first = "states" if self.states else "captions"
            raise item.error(f"{what} the first rows have {first}.", remedy="Give all rows the same.")
        if self.weighed is None:
            self.weighed = "weight" in item.columns
        if "weight" in item.columns and not self.weighed:
            raise item.error("the first row has no weight.", field="weight", remedy="Give all rows a weight, or none.")

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
        return column in self.needs.columns or (column == "weight" and bool(self.weighed))

    def _columns_of(self, item: Item) -> dict[str, Any]:
        found = {}
        for name in ("rewards", "user", "weight", "label"):
            if not self._is_read(name):
                continue
            if name not in item.columns:
                who = "the first row has it" if name == "weight" else "the method reads it"
                raise item.error(f"is not there, and {who}.", field=name, remedy=REMEDIES[name])
            value = item.columns[name]
            if name == "label" and not isinstance(value, bool):
                raise item.error(f"is {value!r}, not true or false.", field=name, remedy=REMEDIES[name])
            found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def _set_aside(self, item: Item, arrays: Sequence[np.ndarray], columns: dict[str, Any]) -> bool:
        """Whether a pair is one of those that its user is known by; else the user's number takes the name's place."""
        name, users = columns["user"], self.images.users
        own = USER_TOKENS in item.columns
        if own:
            self._know_by_tokens(name, item)
        columns["user"] = self.numbers.setdefault(name, len(self.numbers))
        if not own:
            known = self.supports.setdefault(name, [])
            if len(known) < users.support:
                known.append(pooled(arrays[0], users.cells) - pooled(arrays[1], users.cells))
                return True
        self.trained.add(name)
        return False

    def _know_by_tokens(self, name: str, item: Item) -> None:
        """Keep the tokens that a row brings of its user; those of an earlier row must be the same."""
        users = self.images.users
        values = _finite(item.columns[USER_TOKENS])
        if values is None or values.shape != (users.tokens, users.width):
            what = f"is no finite array of {users.tokens} x {users.width}."
            raise item.error(what, field=USER_TOKENS, remedy="Set images.users.tokens and width to what the rows have.")
        if self.given.setdefault(name, values.tolist()) != values.tolist():
            what, remedy = (
                f"is not what an earlier row has for the user {name!r}.",
                "Give a user the same in every row.",
            )
            raise item.error(what, field=USER_TOKENS, remedy=remedy)

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
        values = _finite(item.states)
        if values is None or values.ndim != 2 or values.shape[1] != self.shape.states:
            what = f"is no finite array [L][{self.shape.states}], the width of the model's text states."
            raise item.error(what, field="states")
        with np.errstate(over="ignore"):
            kept = values.astype(np.float16)
        if not np.isfinite(kept).all():
            raise item.error("holds a number that is too large for 16 bits.", field="states")
        return kept


def _finite(given: Any) -> np.ndarray | None:
    """float32; None where it is no array of finite numbers."""
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None


REMEDIES = {
    "rewards": "Add score_0 and score_1: the rewards of the two images.",
    "user": "Add a column `user`: whose preference the pair shows.",
    "weight": "Add a column `weight`: a positive number, how much the row counts.",
    "label": "Add a column `label`: true for good images, false for bad ones.",
}
