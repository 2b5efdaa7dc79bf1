"""The rows that have a slot, and what lies on the device for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.models.family import decoder
from jaxpo.sampling import programs, row_settings, shapes
from jaxpo.sampling.pages import Found, Pages
from jaxpo.sampling.placing import Placed, place
from jaxpo.sampling.programs import Compute, Written
from jaxpo.sampling.rows import Row
from jaxpo.sampling.shown import blank, lengths_of, rows_of
from jaxpo.sampling.weights import Where
from jaxpo.sharding import settle, to_host

Tree = Any


class InFlight:
    """See `jaxpo.sampling.engine.Engine`, whose arguments these are.

    Attributes:
      rows: by slot.
      read_tokens, shared_tokens, written_tokens: counted since the start.
    """

    def __init__(
        self,
        params: Tree,
        compute: Compute,
        *,
        slots: int,
        context: int,
        rounds: int,
        together: int,
        prefix_pages: int | None,
        paged: bool,
        one_shape: bool,
        vocabulary: int,
        where: Where,
        patches: int,
    ) -> None:
        share = where.share
        _check_sizes(slots, rounds, together, compute.page, context, share)
        config, page = compute.config, compute.page
        each = -(-context // page)
        context = each * page
        count = max(slots * each if prefix_pages is None else prefix_pages, each + 1)
        self.params, self.compute, self.count, self.context, self._where = params, compute, slots, context, where
        self.rows: dict[int, Row] = {}
        self._new: list[tuple[Row, Found]] = []
        self.pages = Pages(count, page, each, paged)
        self.read_tokens = self.shared_tokens = self.written_tokens = 0
        self._looks = lengths_of(patches)
        self._rounds, self._free = rounds, list(range(slots - 1, -1, -1))
        self._reads = (shapes.one_shape if one_shape else shapes.read_shapes)(slots, page, together, share)
        self._scored = shapes.scored_shapes(self._reads)
        self._writes = (slots,) if one_shape else shapes.write_sizes(slots, share)
        self._vocabulary, self._settings = vocabulary, row_settings.empty(slots, config.vocab_size)
        with where.entered():
            self._state, self._store = programs.begin(compute, slots, context, count, paged)

    @property
    def prefixes(self) -> Any:
        """The prompts that the store knows."""
        return self.pages.prefixes

    def admit(self, row: Row) -> bool:
        """Give a slot to a row, unless there is none or it lacks pages; `place` brings it there."""
        if not self._free or not self.pages.admit(row):
            return False
        row.slot = self._free.pop()
        self.rows[row.slot] = row
        self._new.append((row, self.pages.begin(row)))
        self.shared_tokens += row.known
        if not row.unread:
            self._is_read(row)
        return True

    def place(self) -> None:
        """Bring the rows that were admitted, and what the store has of their tokens, into their slots.

        They stay to be placed until that is done, so that nobody writes from an empty slot after an exception.
        """
        if not self._new:
            return
        self._fill([row for row, _ in self._new])
        placed = self._nobody(next(size for size in self._writes if size >= len(self._new)))
        for i, (row, found) in enumerate(self._new):
            placed.slot[i], placed.length[i], placed.known[i] = row.slot, len(row.tokens), row.known
            placed.tokens[i, : len(row.tokens)] = row.tokens
            placed.pages[i], placed.last[i], placed.copied[i] = found.pages, found.last, found.copied
        self._run_place(placed, len(self._new))
        self._new.clear()

    def _fill(self, rows: Sequence[Row]) -> None:
        """The settings of rows in their slots."""
        keys = row_settings.row_keys([(r.request.seed, r.request.number, r.sample) for r in rows], self.count)
        self._settings = row_settings.fill(
            self._settings,
            {
                row.slot: row_settings.row_values(
                    row.request,
                    row_settings.Widths(),
                    key=key,
                    vocabulary=self.compute.config.vocab_size,
                    stop_ids=row.asked.stop_ids,
                    vocab_limit=self._vocabulary,
                )
                for row, key in zip(rows, keys, strict=True)
            },
        )

    def _nobody(self, rows: int) -> Placed:
        return Placed.nobody(rows, self.count, self.context, self.context // self.compute.page, self.pages.count)

    def _run_place(self, placed: Placed, count: int) -> None:
        with self._where.entered():
            done = place(self._state, self._store, placed, np.int32(count), compute=self.compute)
            self._state = settle(done)

    def read(self) -> None:
        """Read a part of the prompts, and more while most rows have not read theirs."""
        while unread := [row for row in self.rows.values() if row.reason is None and row.unread]:
            self._read_some(unread)
            if 2 * len(unread) <= len(self.rows):
                return

    def _read_some(self, unread: Sequence[Row]) -> None:
        scored = _scored(unread[0])
        some = [row for row in unread if _scored(row) == scored]
        lanes, chunk = shapes.best_read(self._scored if scored else self._reads, [row.unread for row in some])
        some = some[:lanes]
        slots = np.full(lanes, self.count, np.int32)
        keep = np.full((lanes, chunk // self.compute.page), self.pages.count, np.int32)
        ends = np.full(lanes, self.pages.count, np.int32)
        counts = [min(row.unread, chunk) for row in some]
        given = self._given(some, counts, lanes, chunk)
        for i, (row, n) in enumerate(zip(some, counts, strict=True)):
            slots[i] = row.slot
            self.pages.keep(row, n, keep[i], ends[i : i + 1])
        self.pages.kept()
        scores = self._run_read(slots, keep, ends, given, chunk, scored)
        found = to_host(scores) if scored else None
        for i, (row, n) in enumerate(zip(some, counts, strict=True)):
            if found is not None:
                row.asked.scores.append(tuple(x[i, :n] for x in found))
            row.known += n
            self.read_tokens += n
            if not row.unread:
                self._is_read(row)

    def _given(self, rows: Sequence[Row], counts: Sequence[int], lanes: int, chunk: int) -> Any:
        """The vectors that stand in the next columns of these rows, and where; None where none does."""
        places = [row.places(count) for row, count in zip(rows, counts, strict=True)]
        if all(each is None for each in places):
            return None
        vectors, where = self._nothing_given(lanes, chunk)
        for i, (row, each) in enumerate(zip(rows, places, strict=True)):
            if each is not None:
                there = np.flatnonzero(each >= 0)
                vectors[i, there], where[i, there] = self._vectors(row)[each[there]], True
        return vectors, where

    def _nothing_given(self, lanes: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        width = self.compute.config.hidden_size
        return np.zeros((lanes, chunk, width), self.compute.dtype), np.zeros((lanes, chunk), bool)

    def _vectors(self, row: Row) -> np.ndarray:
        """What the images of a row's prompt become, once for all of its continuations."""
        asked, shown = row.asked, row.request.shown
        assert shown is not None
        if asked.vectors is None:
            found = [self._see(media)[:count] for media, count in rows_of(shown.media, self._looks)]
            asked.vectors = np.concatenate(found)
        return asked.vectors

    def _see(self, media: Any) -> np.ndarray:
        with self._where.entered():
            found: np.ndarray = to_host(settle(programs.see(self.params, media, compute=self.compute)))
        return found

    def _run_read(self, slots: Any, keep: Any, ends: Any, given: Any, chunk: int, scored: bool) -> Any:
        how: dict[str, Any] = {"compute": self.compute, "chunk": chunk, "scored": scored}
        with self._where.entered():
            done = programs.read(self.params, self._state, self._store, slots, keep, ends, given, **how)
            self._state, self._store, scores = settle(done)
        return scores

    def _is_read(self, row: Row) -> None:
        row.asked.read = True
        if len(row.tokens) >= row.limit and row.reason is None:
            row.reason = "length"

    def write(self, version: int) -> None:
        """Some tokens for every row that is ready."""
        ready = [row for _, row in sorted(self.rows.items()) if row.reason is None and not row.unread]
        ready = self._constrained(ready)
        if not ready:
            return
        most = 1 if any(row.matcher for row in ready) else self._rounds
        size = next(size for size in self._writes if size >= len(ready))
        written = self._write(ready, size, most)
        for i, row in enumerate(ready):
            place = row.slot if size == self.count else i
            before = len(row.tokens)
            row.take(written, place, version)
            self.written_tokens += len(row.tokens) - before

    def _write(self, ready: Sequence[Row], size: int, most: int) -> Written:
        alive = np.zeros(size, bool)
        if size == self.count:
            slots, settings = None, self._settings
            alive[[row.slot for row in ready]] = True
        else:
            slots = np.full(size, self.count, np.int32)
            slots[: len(ready)] = [row.slot for row in ready]
            alive[: len(ready)] = True
            settings = jax.tree.map(lambda x: x[np.minimum(slots, self.count - 1)], self._settings)
        how: dict[str, Any] = {"compute": self.compute, "rounds": self._rounds}
        with self._where.entered():
            done = programs.write(self.params, self._state, settings, slots, alive, np.int32(most), **how)
            self._state, written = settle(done)
        found: Written = to_host(written)
        return found

    def _constrained(self, rows: list[Row]) -> list[Row]:
        """Set what rows with a constraint may draw next; those whose form allows nothing more end."""
        bound = [row for row in rows if row.matcher is not None]
        if not bound:
            return rows
        words = np.zeros((len(bound), self._settings.mask.shape[1]), np.uint32)
        for row, allowed in zip(bound, words, strict=True):
            assert row.matcher is not None
            try:
                if not row.matcher.allowed(allowed):
                    row.reason = "stop_id"
            except ConfigError as error:
                row.fail(str(error))
            allowed &= row_settings.allowed_words(row.request, self.compute.config.vocab_size, self._vocabulary)
        self._settings = row_settings.with_masks(self._settings, [row.slot for row in bound], words)
        return [row for row in rows if row.reason is None]

    def release(self) -> list[Row]:
        """Rows that have ended, taken out of their slots."""
        done = [row for row in self.rows.values() if row.reason is not None]
        for row in done:
            self._leave(row)
        return done

    def swap(self, params: Tree) -> list[Row]:
        """Other weights: nothing that the store and the cache hold is valid any more.

        Returns:
          the rows that were in flight; they have no slot now, and go on from the tokens that they have.
        """
        self.params = params
        rows = list(self.rows.values())
        for row in rows:
            if not row.asked.read:
                row.asked.scores.clear()
            self._leave(row)
        self.pages.prefixes.forget()
        return rows

    def _leave(self, row: Row) -> None:
        del self.rows[row.slot]
        self._new = [new for new in self._new if new[0] is not row]
        self._free.append(row.slot)
        self.pages.release(row)
        row.slot = -1

    def warm_up(self) -> None:
        """Run every program in every shape on rows that are not there."""
        if self.rows:
            raise ConfigError("the engine is busy; warm it up before requests are submitted")
        model, none = decoder(self.compute.config), self.pages.count
        self._fill([])
        plain, scores = ((shape, False) for shape in self._reads), ((shape, True) for shape in self._scored)
        for (lanes, chunk), scored in itertools.chain(plain, scores):
            slots, ends = np.full(lanes, self.count, np.int32), np.full(lanes, none, np.int32)
            keep = np.full((lanes, chunk // self.compute.page), none, np.int32)
            for given in (None, self._nothing_given(lanes, chunk)) if model.see else (None,):
                self._run_read(slots, keep, ends, given, chunk, scored)
        if model.values is not None:
            patch = model.values(self.compute.config)
            for length in self._looks:
                self._see(blank(length, patch))
        for size in self._writes:
            self._run_place(self._nobody(size), 0)
            self._write([], size, 0)


def _scored(row: Row) -> bool:
    return row.request.prompt_logps and not row.asked.read


def _check_sizes(slots: int, rounds: int, together: int, page: int, context: int, share: int) -> None:
    problems = [
        f"{name} is {value}; it must be at least {least}"
        for name, value, least in (
            ("slots", slots, 1),
            ("rounds", rounds, 1),
            ("page", page, 1),
            ("together", together, page),
            ("context", context, 1),
        )
        if value < least
    ]
    if slots % share:
        problems.append(
            f"slots is {slots}; the mesh shares rows among {share} devices, so make it a multiple of {share}"
        )
    if problems:
        raise ConfigError(problems)
