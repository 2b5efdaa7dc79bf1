"""A tree of steps: values, visits, which child is followed, and how a simulation's end is told to those above it.

Reference: Xie et al. 2024, arXiv:2405.00451, and its authors' code, whose N, Q and V these are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """A step that was written after a beginning, judged.

    Attributes:
      text: of the step alone, its line break included.
      logp: summed over its tokens, nats.
      tokens: how many these are.
      ended: the answer is over after it.
      confidence: C in [0, 1], of the self-evaluation; 0 = none was made.
      outcome: O: 0 of a step within an answer; of the last one 1 (or `NOVEL`) where it is right, -1 where it is wrong.
    """

    text: str
    logp: float
    tokens: int
    ended: bool = False
    confidence: float = 0.0
    outcome: float = 0.0


NOVEL = 1.25
"""The outcome of a right answer by another way than the reference solution's."""
LENGTH_POWER = 1.25


@dataclass
class Node:
    """A beginning of an answer.

    Attributes:
      step: its last step; None of the root.
      value: R = C + O; 0 of the root.
      visits: N. The root's own counter grows by two per simulation, as in the authors' code.
      q: r + gamma V, of the step that led here.
      v: mean of the children's q, each weighed by its visits and at least once.
    """

    step: Step | None = None
    parent: Node | None = None
    depth: int = 0
    value: float = 0.0
    visits: int = 0
    q: float = 0.0
    v: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def terminal(self) -> bool:
        """Whether the answer is over."""
        return self.step is not None and self.step.ended

    @property
    def prior(self) -> float:
        """exp(log-probability of the step / its length^1.25)."""
        return 1.0 if self.step is None else math.exp(self.step.logp / max(self.step.tokens, 1) ** LENGTH_POWER)

    @property
    def reward(self) -> float:
        """r = R(child) - R(parent), of the step that led here."""
        return 0.0 if self.parent is None else self.value - self.parent.value

    @property
    def prefix(self) -> str:
        """All steps from the root to here."""
        return "" if self.step is None or self.parent is None else self.parent.prefix + self.step.text

    def every(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.every()


def grow(node: Node, steps: list[Step]) -> None:
    """Give a node children; a step without a confidence has its parent's value in its place."""
    for step in steps:
        weight = max(node.depth - 3, 1)
        confidence = step.confidence / weight if step.confidence else node.value
        child = Node(step, node, node.depth + 1, confidence + step.outcome)
        child.q = child.reward
        node.children.append(child)


def follow(node: Node, c_puct: float) -> Node:
    """The child with the largest Q + c p sqrt(N of the parent) / (1 + N); the first of equals."""

    def puct(child: Node) -> float:
        return child.q + c_puct * child.prior * math.sqrt(node.visits) / (1 + child.visits)

    return max(node.children, key=puct)


def back_up(path: list[Node], gamma: float) -> None:
    """Tell a simulation's end to its path, from the last node up to the root that it began at."""
    last = path[-1]
    last.visits += 1
    last.q = last.reward + gamma * last.v
    for node in reversed(path[:-1]):
        weights = [max(1, child.visits) for child in node.children]
        node.v = sum(w * child.q for w, child in zip(weights, node.children, strict=True)) / sum(weights)
        node.q = node.reward + gamma * node.v
        node.visits += 1
    path[0].visits += 1


def standing(node: Node) -> tuple[float, float, float]:
    """By which the next step is chosen: visits (1 + the gap in visits of its own children), Q, V."""
    visits = [child.visits for child in node.children]
    gap = max(visits) - min(visits) if visits else 0
    return node.visits * (1 + gap), node.q, node.v


def visit_smoothing(winner: int, loser: int) -> float:
    """How doubtful a pair of siblings is: a = N_l / (N_w + N_l), at most 1/2; 0 where the loser was never visited."""
    return min(0.5, loser / (max(1, winner) + loser)) if loser else 0.0
