"""Rows and folders -> stored examples: checked one by one, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.image_data import ImageData
from jaxpo.data.images.captions import encoded
from jaxpo.data.images.dataset import USER_TOKENS, ImageShape
from jaxpo.data.images.folders import folder_items
from jaxpo.data.images.formats import MORE_STATES, TIE, UNLABELLED, Item, items_of_row
from jaxpo.data.images.forms import METHOD, contents, right_folder, right_row
from jaxpo.data.images.pixels import arrays_of
from jaxpo.data.images.states import finite, states_of
from jaxpo.data.images.store import Stored
from jaxpo.data.images.users import check_supports, embeddings, pooled
from jaxpo.data.rows.bad_rows import BadRows
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import DataError


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
        method: str = METHOD,
        words: bool = False,
    ):
        self.tables, self.folders, self.method = tables, folders, method
        self.words = words
        self.data, self.images, self.shape, self.tokenizer, self.needs = data, images, shape, tokenizer, needs
        self.counts = Counter[str](read=0, kept=0)
        every = [*tables, *(path for folder in folders for path in contents(folder))]
        self.bad = BadRows(data, self.counts, every)
        self.supports: dict[str, list[np.ndarray]] = {}
        self.numbers: dict[str, int] = {}
        self.trained: set[str] = set()
        self.given: dict[str, list[Any]] = {}
        self.rewards: list[float] = []
        self.states, self.more_states = 0, 0
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
            "pairs": "chosen" in self.needs.roles,
            "counts": dict(self.counts),
            "columns": [name for name in ("rewards", "user", "weight", "label") if self._is_read(name)],
            "bad_rows": self.bad.listed,
            "reward_range": [min(self.rewards), max(self.rewards)] if self.rewards else None,
            "states": self.states,
            "more_states": self.more_states,
            "words": self.words or not self.states,
            "user_tokens": self._user_tokens(),
        }

    def items(self) -> Iterator[Item]:
        """All examples, of files first."""
        for row in read_rows(self.tables, bad=self._unparsed) if self.tables else ():
            try:
                right_row(self.needs, row, self.method)
                yield from items_of_row(row, self.images)
            except DataError as error:
                self._unparsed(error)
        for folder in self.folders:
            right_folder(self.needs, folder, self.method)
            yield from folder_items(folder)

    def _unparsed(self, error: DataError) -> None:
        self.counts["read"] += 1
        self.bad(error)

    def stored(self, item: Item) -> Stored | None:
        """An example as it is stored; None: it is left out, and counted."""
        if not self.shape.states and item.states is not None:  # a model of words and pictures, beside a denoiser
            self.counts["states_not_read"] += 1
            item = replace(item, states=None)
        self._check_alike(item)
        if self._left_out(item):
            return None
        segments: tuple[np.ndarray, ...] | None = ()
        if item.states is None or self.words:
            if item.caption is None:
                raise item.error(f"has no caption, and {self.method} reads words, beside the states.", remedy=WORDS)
            segments = encoded(item, self.tokenizer, self.data, self.images.segments, self.counts)
        states = None if item.states is None else states_of(item.states, self.shape.states, item.error)
        if segments is None:
            return None
        more = self._more_states_of(item)
        arrays = self._arrays_of(item)
        columns = self._columns_of(item)
        if self._is_read("user") and self._set_aside(item, arrays, columns):
            self.counts["set_aside_for_users"] += 1
            return None
        self.rewards += columns.get("rewards", ())
        self.states = max(self.states, 0 if states is None else len(states))
        self.more_states = max(self.more_states, 0 if more is None else len(more))
        return Stored(arrays, segments, states, columns, more)

    def _arrays_of(self, item: Item) -> tuple[np.ndarray, ...]:
        """The images as they are stored; a method that draws its own reads none, and counts them."""
        if "caption" not in self.needs.roles:
            return tuple(arrays_of(item, self.shape.size, self.shape.channels))
        self.counts["images_not_read"] += len(item.images)
        return ()

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

    def _more_states_of(self, item: Item) -> np.ndarray | None:
        """Of a second text encoder, for a model with an adapter of them; those that another model is given count."""
        if not self.shape.adapter:
            self.counts["adapter_states_not_read"] += item.more_states is not None
            return None
        if item.more_states is None:
            remedy = f"Add it: [L][{self.shape.adapter}], what the second text encoder makes of the caption."
            raise item.error("is not there, and the model's text adapter reads it.", field=MORE_STATES, remedy=remedy)
        return states_of(item.more_states, self.shape.adapter, item.error, MORE_STATES)

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
        values = finite(item.columns[USER_TOKENS])
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


WORDS = "Add a column caption beside states; `jaxpo data encode-images` writes both."
REMEDIES = {
    "rewards": "Add score_0 and score_1: the rewards of the two images.",
    "user": "Add a column `user`: whose preference the pair shows.",
    "weight": "Add a column `weight`: a positive number, how much the row counts.",
    "label": "Add a column `label`: true for good images, false for bad ones.",
}
