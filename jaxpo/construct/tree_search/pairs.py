"""Pairs of sibling steps along the path that a search chose, and which trees are of use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jaxpo.construct.tree_search.tree import Node, visit_smoothing

Loser = Literal["worst", "second", "random"]
Filter = Literal["terminal", "solved", "none"]


@dataclass(frozen=True)
class StepPair:
    """Two steps after one beginning.

    Attributes:
      prefix: the beginning.
      chosen, rejected: the steps, only children after them included.
      smoothing: by the visits.
      margin: Q of the better less Q of the worse.
    """

    prefix: str
    chosen: str
    rejected: str
    smoothing: float
    margin: float

    @property
    def span(self) -> int:
        """Characters of the two answers before the first at which they differ, or before the last of the shorter."""
        same = next((i for i, (a, b) in enumerate(zip(self.chosen, self.rejected, strict=False)) if a != b), None)
        shortest = min(len(self.chosen), len(self.rejected))
        return len(self.prefix) + (shortest - 1 if same is None else same)


def chain(node: Node) -> tuple[str, Node]:
    """A step with the only children after it as one step, and where it ends."""
    assert node.step is not None
    text = node.step.text
    while len(node.children) == 1:
        (node,) = node.children
        assert node.step is not None
        text += node.step.text
    return text, node


def pairs_along(path: list[Node], loser: Loser, draws: random.Random) -> Iterator[StepPair]:
    """A pair at every node of the path that has two children or more: its best step, and another, by Q.

    Siblings of one Q say nothing, and make none.
    """
    for node in path:
        if len(node.children) < 2:
            continue
        ranked = sorted(node.children, key=lambda child: -child.q)
        winner, others = ranked[0], ranked[1:]
        other = {"worst": others[-1], "second": others[0], "random": draws.choice(others)}[loser]
        if winner.q > other.q:
            better, worse = chain(winner)[0], chain(other)[0]
            smoothing = visit_smoothing(winner.visits, other.visits)
            yield StepPair(node.prefix, better, worse, smoothing, winner.q - other.q)


def unusable(root: Node, kept: Filter) -> str | None:
    """Why a tree is left out, as the name of a count; None where it is kept.

    "terminal" asks for an answer that ends, "solved" for one that is right and one that is wrong.
    """
    ends = [node.step.outcome for node in root.every() if node.terminal and node.step is not None]
    if kept != "none" and not ends:
        return "trees_without_a_terminal"
    if kept == "solved" and not (max(ends) > 0 > min(ends)):
        return "trees_all_right_or_all_wrong"
    return None
