"""The delivery task: a van on a board with roads, mud, houses, coins, roadblocks, sheep and a goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.evaluate.regret.processes import Process

FEATURES = ("gas", "goal", "sheep", "coin", "roadblock", "mud")
WEIGHTS = (-1.0, 50.0, -50.0, 1.0, -1.0, -2.0)
"""Of the task's own reward, in the order of the features."""
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
GOAL_WEIGHTS, SHEEP_WEIGHTS = (0.0, 1.0, 5.0, 10.0, 50.0), (-5.0, -10.0, -50.0, -100.0)
ROADBLOCK_WEIGHTS, MUD_WEIGHTS = (-2.0, -5.0, -10.0), (-1.0, -2.0, -3.0)
"""What the weights of random boards are drawn from."""
SIDES, SHEEP, ROADBLOCKS, COINS = (3, 5, 6, 10, 15), (0.0, 0.1, 0.3), (0.0, 0.1, 0.5, 0.8), (0.0, 0.1, 0.2)
"""What sides of random boards and shares of their cells are drawn from."""


@dataclass(frozen=True)
class Board:
    """What stands on each cell.

    Attributes:
      cells: rows of characters: "." road, "~" mud, "#" house, "o" coin, "x" roadblock, "O" and "X" the same on mud,
        "S" sheep, "G" goal.
    """

    cells: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError where this is no board."""
        if not self.cells or len({len(row) for row in self.cells}) != 1:
            raise ConfigError("a board has rows of one length.")
        unknown = set("".join(self.cells)) - set(".~#oxOXSG")
        if unknown:
            raise ConfigError(f"a board has no cell {sorted(unknown)[0]!r}; there are . ~ # o x O X S G.")
        if not set("".join(self.cells)) & set(".~oxOX"):
            raise ConfigError("a board needs a cell that the van can start from: a road or mud.")


def process_of(board: Board) -> Process:
    """The decision process of a board: four moves, a state per cell.

    Goal and sheep end an episode and are all that is counted there. A house or the border blocks: the van stays, and
    pays for the ground that it stands on. Elsewhere the cell that is entered counts: gas, or mud in its place, and a
    coin or a roadblock besides, which stay. Every free cell is as likely a start.
    """
    cells = np.asarray([list(row) for row in board.cells])
    height, width = cells.shape
    states = height * width
    transitions, features = np.zeros((states, 4, states)), np.zeros((states, 4, states, len(FEATURES)))
    flat = cells.reshape(-1)
    terminal = np.isin(flat, ["G", "S"])
    for s in range(states):
        for a, (down, right) in enumerate(MOVES):
            row, column = s // width + down, s % width + right
            outside = not (0 <= row < height and 0 <= column < width)
            blocked = outside or cells[row, column] == "#"
            to = s if terminal[s] or blocked else row * width + column
            transitions[s, a, to] = 1
            if not terminal[s]:
                features[s, a, to] = _ground(flat[s]) if to == s else _entered(flat[to])
    free = ~terminal & (flat != "#")
    return Process(transitions, features, terminal, free / free.sum())


def _ground(cell: str) -> np.ndarray:
    """What standing on a cell costs."""
    return _counted("mud" if cell in "~OX" else "gas")


def _entered(cell: str) -> np.ndarray:
    """The features of entering a cell."""
    if cell in "GS":
        return _counted("goal" if cell == "G" else "sheep")
    more = {"o": "coin", "O": "coin", "x": "roadblock", "X": "roadblock"}.get(cell)
    return _ground(cell) + (0 if more is None else _counted(more))


def _counted(name: str) -> np.ndarray:
    return np.asarray([float(name == feature) for feature in FEATURES])


def random_board(
    rng: np.random.Generator,
    *,
    side: int = 6,
    sheep: float = 0.1,
    roadblocks: float = 0.1,
    coins: float = 0.1,
    mud: float = 0.2,
    houses: float = 0.1,
) -> Board:
    """A square board with one goal; of the other cells these shares are what their names say, the rest is road.

    Mud is drawn apart from coins and roadblocks, which may lie on it.
    """
    names, shares = "So#x", (sheep, coins, houses, roadblocks)
    left = side * side - 1
    counts = [round(share * left) for share in shares]
    if side < 2 or sum(counts) >= left:
        raise ConfigError(f"a board of side {side} has no road left with these shares; lower them.")
    cells = list("G" + "".join(name * n for name, n in zip(names, counts, strict=True)))
    cells += list("." * (side * side - len(cells)))
    muddy = rng.random(len(cells)) < mud
    mixed = [{".": "~", "o": "O", "x": "X"}.get(c, c) if wet else c for c, wet in zip(cells, muddy, strict=True)]
    placed = rng.permutation(np.asarray(mixed))
    return Board(tuple("".join(row) for row in placed.reshape(side, side)))


def random_weights(rng: np.random.Generator) -> np.ndarray:
    """Weights of a random board's reward: gas -1 and coin 1, the others from the lists above."""
    drawn = [rng.choice(list(values)) for values in (GOAL_WEIGHTS, SHEEP_WEIGHTS, ROADBLOCK_WEIGHTS, MUD_WEIGHTS)]
    goal, sheep, roadblock, mud = drawn
    return np.asarray([-1.0, goal, sheep, 1.0, roadblock, mud])


def random_shares(rng: np.random.Generator, sides: Sequence[int] = SIDES) -> dict[str, float]:
    """Side and shares of a board, from the lists above; roadblocks at most what sheep, coins and a fifth leave free."""
    sheep, coins = float(rng.choice(SHEEP)), float(rng.choice(COINS))
    fitting = [share for share in ROADBLOCKS if share <= 0.8 - sheep - coins]
    return {
        "side": int(rng.choice(list(sides))),
        "sheep": sheep,
        "coins": coins,
        "roadblocks": float(rng.choice(fitting)),
        "houses": 0.0,
    }
