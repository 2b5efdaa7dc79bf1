"""Which pages a row takes, shares and leaves behind: the host's side of `jaxpo.sampling.cache`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpo.sampling.prefixes import Hit, Node, Prefixes
from jaxpo.sampling.rows import Row


@dataclass(frozen=True)
class Found:
    """What a row begins with, see `cache.load`.

    Attributes:
      pages: `[n]`.
      last: the page after which the state is taken.
      copied: (from, to).
    """

    pages: np.ndarray
    last: int
    copied: tuple[int, int]


class Pages:
    """The pages of an engine.

    Args:
      count: N; as an index it means none.
      page: positions of one.
      each: pages of a whole slot, n.
      paged: rows lie in pages; else the pages are copies of what rows have read.
    """

    def __init__(self, count: int, page: int, each: int, paged: bool) -> None:
        self.count, self.page, self.each, self.paged = count, page, each, paged
        self.prefixes = Prefixes(count, page)
        self._hits: dict[Row, Hit] = {}
        self._new: list[Node] = []

    def admit(self, row: Row) -> bool:
        """Find what is known of a row's tokens, and with pages take those it will need; False if there are too few."""
        # Whoever wants to know log p of the prompt's tokens reads all of them.
        scored = row.request.prompt_logps and not row.asked.read
        hit = Hit((), 0) if scored else self.prefixes.find(row.key(0, len(row.tokens) - 1))
        if self.paged:
            shared = [node for node in hit.nodes if len(node.key) == self.page]
            self.prefixes.hold(hit.nodes)
            own = self.prefixes.take(-(-row.limit // self.page) - len(shared))
            self.prefixes.let_go(hit.nodes[len(shared) :])
            if own is None:
                self.prefixes.let_go(shared)
                return False
            row.held, row.own = shared, own
        self._hits[row] = hit
        return True

    def begin(self, row: Row) -> Found:
        """Where a row goes on from, once it has a slot."""
        hit = self._hits.pop(row)
        row.known = hit.length
        self._move(row, hit.nodes[-1] if hit.nodes else self.prefixes.root)
        pages = np.full(self.each, self.count, np.int32)
        last = hit.nodes[-1].page if hit.nodes else self.count
        if not self.paged:
            pages[: len(hit.nodes)] = [node.page for node in hit.nodes]
            return Found(pages, last, (self.count, self.count))
        mine = [*(node.page for node in row.held), *row.own]
        pages[: len(mine)] = mine
        part = len(hit.nodes) > len(row.held)
        return Found(pages, last, (last, row.own[0]) if part else (self.count, self.count))

    def keep(self, row: Row, count: int, whole: np.ndarray, end: np.ndarray) -> None:
        """Decide where the next `count` tokens that a row reads are kept, in `whole` and `end`; see `cache.save`.

        No page is given twice until `kept`: one call writes all of them, in no order.
        """
        until = row.known + count
        for j in range(count // self.page):
            at = row.known + j * self.page
            whole[j] = self._keep_page(row, row.key(at, at + self.page))
        if until < len(row.tokens) - 1:
            return
        rest = row.key(until - until % self.page, until)
        if row.node is not None and rest and self.prefixes.child(row.node, rest) is None:
            free = self.prefixes.take(1)
            if free is not None:
                end[0] = free[0]
                self._add(row.node, rest, free[0])
        self._move(row, None)

    def kept(self) -> None:
        """The rows of one call have their places."""
        self.prefixes.let_go(self._new)
        self._new = []

    def _add(self, parent: Node, key: tuple[int, ...], page: int) -> Node:
        node = self.prefixes.add(parent, key, page)
        self.prefixes.hold([node])
        self._new.append(node)
        return node

    def _keep_page(self, row: Row, key: tuple[int, ...]) -> int:
        """Where a whole page is kept; N if it is known already, or there is no room."""
        mine = row.own.pop(0) if self.paged else None
        known = None if row.node is None else self.prefixes.child(row.node, key)
        if known is not None or row.node is None:
            row.passed += [] if mine is None else [mine]
            self._move(row, known)
            return self.count
        free = self.prefixes.take(1) if mine is None else [mine]
        if free is None:
            self._move(row, None)
            return self.count
        node = self._add(row.node, key, free[0])
        if self.paged:
            self.prefixes.hold([node])
            row.held.append(node)
        self._move(row, node)
        return free[0]

    def _move(self, row: Row, node: Node | None) -> None:
        """Where the row stands in the tree; the page there is not given away while it does."""
        self.prefixes.hold([] if node is None else [node])
        self.prefixes.let_go([] if row.node is None else [row.node])
        row.node = node

    def release(self, row: Row) -> None:
        """A row that has ended, or begins again, gives back what it has."""
        self._move(row, None)
        self.prefixes.let_go(row.held)
        self.prefixes.give([*row.own, *row.passed])
        row.held, row.own, row.passed = [], [], []
