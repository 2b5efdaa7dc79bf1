"""Scenes by chance, some of whose captions are kept from training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from jaxpo.corpora.scenes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene, Thing
from jaxpo.errors import ConfigError

HELD_OUT = frozenset(
    (colour, shape, place)
    for (i, colour), (j, shape), (k, place) in itertools.product(*map(enumerate, (COLOURS, SHAPES, PLACES)))
    if (i + k) % 4 == j
)
"""12 of the 48 clauses: every colour, shape and place is trained on, and any two of them together."""


def clauses_of(scenes: Iterable[Scene]) -> set[tuple[str, str, str]]:
    """Colour, shape and place of everything that scenes show."""
    return {(thing.colour, thing.shape, thing.place) for scene in scenes for thing in scene.things}


def draw(
    count: int,
    seed: int,
    *,
    held_out: bool = False,
    things: tuple[int, int] = (1, 1),
    gains: tuple[float, float] = (0.6, 1.0),
    unplaced: float = 0.0,
) -> list[Scene]:
    """Scenes whose things are all of the training clauses, or all of the held-out ones.

    Args:
      count: how many.
      seed: of all chances.
      held_out: which part of the 48 clauses.
      things: fewest and most of a scene.
      gains: least and greatest.
      unplaced: share of scenes whose captions do not say where things are.

    Raises:
      ConfigError: more than four things, or none.
    """
    if not 1 <= things[0] <= things[1] <= len(PLACES):
        raise ConfigError(f"A scene has one to four things, at most one a quadrant, not {things[0]} to {things[1]}.")
    rng = np.random.default_rng((seed, held_out))
    looks = list(itertools.product(COLOURS, SHAPES))
    return [_scene(rng, looks, held_out, things, gains, unplaced) for _ in range(count)]


def _scene(
    rng: np.random.Generator,
    looks: list[tuple[str, str]],
    held_out: bool,
    things: tuple[int, int],
    gains: tuple[float, float],
    unplaced: float,
) -> Scene:
    placed = rng.random() >= unplaced
    places = rng.permutation(len(PLACES))[: rng.integers(things[0], things[1] + 1)]
    drawn = []
    for place in (PLACES[k] for k in places):
        here = [look for look in looks if ((*look, place) in HELD_OUT) is held_out]
        colour, shape = here[rng.integers(len(here))]
        rows, columns = rng.integers(0, 2, 2)
        drawn.append(Thing(colour, shape, place, (int(rows), int(columns)), placed))
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return Scene(tuple(drawn), background, float(rng.uniform(*gains)))
