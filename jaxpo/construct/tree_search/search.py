"""The search over one question's steps, as a generator: it asks for steps and is sent them, judged.

So many questions are searched side by side, and whoever writes the steps writes those of all of them at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass

from jaxpo.construct.tree_search.tree import Node, Step, back_up, follow, grow, standing


@dataclass(frozen=True)
class Plan:
    """How far and how long is searched.

    Attributes:
      simulations: from a node on the chosen path; four times as many from the root.
      actions: steps that are tried after a beginning.
      root_actions: after the question itself.
      depth: steps of an answer at most.
      c_puct: weight of the prior.
      gamma: of later rewards.
      temperature: of the move; 0 = the best standing, else drawn by exp(Q / temperature).
    """

    simulations: int = 64
    actions: int = 2
    root_actions: int = 2
    depth: int = 3
    c_puct: float = 1.0
    gamma: float = 1.0
    temperature: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """Steps that a search asks for."""

    prefix: str
    count: int


Search = Generator[Wanted, list[Step], tuple[Node, list[Node]]]


def search(plan: Plan, seed: int) -> Search:
    """Yields what it wants written; returns the root and the chosen path, root included.

    A node of which no step could be written ends its path there.
    """
    root, draws = Node(), random.Random(seed)
    path, barren = [root], set[int]()
    while not path[-1].terminal and path[-1].depth < plan.depth:
        at = path[-1]
        for _ in range(plan.simulations * (1 if at.depth else 4)):
            yield from _simulate(at, plan, barren)
            if id(at) in barren:
                return root, path
        path.append(_move(at, plan, draws))
    return root, path


def _simulate(start: Node, plan: Plan, barren: set[int]) -> Generator[Wanted, list[Step], None]:
    """One simulation: down by PUCT, growing leaves, to an end or as deep as may be; then up again."""
    path = [start]
    while not path[-1].terminal and path[-1].depth < plan.depth and id(path[-1]) not in barren:
        node = path[-1]
        if not node.children:
            steps = yield Wanted(node.prefix, plan.actions if node.depth else plan.root_actions)
            grow(node, steps)
            if not steps:
                barren.add(id(node))
                break
        path.append(follow(node, plan.c_puct))
    back_up(path, plan.gamma)


def _move(node: Node, plan: Plan, draws: random.Random) -> Node:
    if plan.temperature == 0:
        return max(node.children, key=standing)
    best = max(child.q for child in node.children)
    weights = [math.exp((child.q - best) / plan.temperature) for child in node.children]
    return draws.choices(node.children, weights)[0]
