"""Which prompts, and which of their beginnings, the store knows: a radix tree over pages of token ids, on the host.

A node is one page of tokens after those of its parents. Those that are named least lately give their pages first, a
parent never before its children. The end of a prompt is a node too, with fewer tokens than a page: who asks the same
again, or wants more samples, reads nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Key = tuple[int, ...]


@dataclass(eq=False)
class Node:
    """A page of a prompt.

    Attributes:
      page: where the store has it.
      key: its tokens; fewer than a page's where a prompt ended.
      parent: None of the first page: the root.
      children: by their tokens.
      held: rows that use the page where it lies; it is not given away then.
    """

    page: int
    key: Key
    parent: Node | None
    children: dict[Key, Node] = field(default_factory=dict)
    held: int = 0


@dataclass(frozen=True)
class Hit:
    """What is known of a prompt.

    Attributes:
      nodes: its pages, in order; the last one may be the end of a prompt.
      length: tokens that they cover.
    """

    nodes: tuple[Node, ...]
    length: int


class Prefixes:
    """The tree, and the pages that are free.

    Args:
      pages: of the store, N.
      page: tokens of one.
    """

    def __init__(self, pages: int, page: int) -> None:
        self.page, self.pages = page, pages
        self.root = Node(-1, (), None)
        self._free = list(range(pages - 1, -1, -1))
        self._used: OrderedDict[Node, None] = OrderedDict()

    @property
    def nodes(self) -> int:
        """Pages that hold a part of some prompt."""
        return len(self._used)

    @property
    def free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    def find(self, tokens: Sequence[int]) -> Hit:
        """The longest beginning that is known: whole pages, or all of it."""
        node, at, found = self.root, 0, []
        while at < len(tokens):
            child = node.children.get(tuple(tokens[at : at + self.page]))
            if child is None:
                break
            found.append(child)
            self._used.move_to_end(child)
            node, at = child, at + len(child.key)
        return Hit(tuple(found), at)

    def child(self, parent: Node, key: Key) -> Node | None:
        """The page with these tokens after `parent`, if it is known."""
        return parent.children.get(key)

    def add(self, parent: Node, key: Key, page: int) -> Node:
        """A page that holds these tokens after `parent` from now on."""
        node = parent.children[key] = Node(page, key, parent)
        self._used[node] = None
        return node

    def take(self, count: int) -> list[int] | None:
        """So many free pages, other prompts giving theirs; None, and nothing is given, if there are not so many."""
        if count > len(self._free) and count > len(self._free) + len(self._used.keys() - self._kept()):
            return None
        while len(self._free) < count:
            self._drop(next(n for n in self._used if not n.children and not n.held))
        return [self._free.pop() for _ in range(count)]

    def give(self, pages: Sequence[int]) -> None:
        """Pages that nobody needs any more."""
        self._free.extend(pages)

    def forget(self) -> None:
        """Drop every prompt, for the weights have changed; pages that rows use stay theirs until they let go."""
        for node in list(self._used):
            node.children.clear()
            if not node.held:
                self._free.append(node.page)
            del self._used[node]
        self.root.children.clear()

    def hold(self, nodes: Sequence[Node]) -> None:
        """A row uses these pages where they lie."""
        for node in nodes:
            node.held += 1

    def let_go(self, nodes: Sequence[Node]) -> None:
        """A row uses them no more."""
        for node in nodes:
            node.held -= 1
            if not node.held and node.parent is not None and node not in self._used:  # forgotten meanwhile
                self._free.append(node.page)

    def _kept(self) -> set[Node]:
        """The pages that rows use where they lie, and those before them."""
        found: set[Node] = set()
        for held in self._used:
            node = held if held.held else None
            while node is not None and node not in found:
                found.add(node)
                node = node.parent
        return found

    def _drop(self, node: Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.key], self._used[node]
        self._free.append(node.page)
