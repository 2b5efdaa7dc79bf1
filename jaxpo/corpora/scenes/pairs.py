"""Two pictures of one caption, of which a reward prefers one: they differ in what the caption does not say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jaxpo.corpora.scenes.draw import HELD_OUT, draw
from jaxpo.corpora.scenes.rewards import REWARDS
from jaxpo.corpora.scenes.scene import PLACES, Scene, render
from jaxpo.errors import DataError

LEAST = 1e-3
"""Rewards of a pair that is no tie differ by more than this."""
TRIES = 50


@dataclass(frozen=True)
class Judged:
    """Pairs of pictures with the reward of each.

    Attributes:
      captions: `[N]`.
      chosen: float32 `[N, size, size, 3]` in [-1, 1]: of the larger reward, but where a label was drawn by chance.
      rejected: likewise.
      rewards: float32 `[N, 2]` of the chosen and of the rejected one.
      scenes: `[N]` of the chosen.
    """

    captions: tuple[str, ...]
    chosen: np.ndarray
    rejected: np.ndarray
    rewards: np.ndarray
    scenes: tuple[Scene, ...]


def pairs(
    count: int,
    seed: int,
    reward: str,
    *,
    size: int = 8,
    held_out: bool = False,
    ties: float = 0.0,
    tie_width: float = 0.03,
    gains: tuple[float, float] = (0.6, 1.0),
    unplaced: float = 0.0,
) -> Judged:
    """Pairs judged by a reward of `REWARDS`.

    Args:
      count: how many.
      seed: of all chances.
      reward: its name.
      size: pixels a side.
      held_out: whether of the held-out clauses.
      ties: share of near ties, whose two pictures differ in their gain alone, by less than `tie_width`, and whose label
        is drawn by chance.
      tie_width: greatest difference of gains of a tie.
      gains: least and greatest.
      unplaced: share of captions that do not say where the thing is, so that the pictures may differ in it.

    Raises:
      DataError: the reward finds all pictures of a caption alike.
    """
    rng = np.random.default_rng((seed, 1))
    first = draw(count, seed, held_out=held_out, gains=gains, unplaced=unplaced)
    tied = rng.random(count) < ties
    second = [_tie(x, rng, gains, tie_width) for x in first]
    images = np.stack([render(first, size), render(second, size)])
    alike = np.flatnonzero(~tied)
    for _ in range(TRIES):
        for i in alike:
            second[i] = _other(first[i], rng, gains)
        images[1] = render(second, size)
        values = np.stack([np.asarray(REWARDS[reward](x)) for x in images])
        alike = np.flatnonzero(~tied & (np.abs(values[0] - values[1]) <= LEAST))
        if not len(alike):
            break
    else:
        raise DataError(
            f"the reward '{reward}' finds all pictures of {len(alike)} of {count} captions alike.",
            remedy="Let the gains differ more, or leave places unsaid.",
        )
    better = np.where(tied, rng.integers(0, 2, count), np.argmax(values, axis=0))
    rows = np.arange(count)
    return Judged(
        captions=tuple(scene.caption for scene in first),
        chosen=images[better, rows],
        rejected=images[1 - better, rows],
        rewards=np.stack([values[better, rows], values[1 - better, rows]], axis=1).astype(np.float32),
        scenes=tuple((second if b else first)[i] for i, b in enumerate(better)),
    )


def _tie(scene: Scene, rng: np.random.Generator, gains: tuple[float, float], width: float) -> Scene:
    gain = float(np.clip(scene.gain + rng.uniform(-width, width), *gains))
    return replace(scene, gain=gain)


def _other(scene: Scene, rng: np.random.Generator, gains: tuple[float, float]) -> Scene:
    """What the same caption may show besides: another gain, other shifts, and other places where none is said."""
    things = []
    for thing in scene.things:
        held_out = (thing.colour, thing.shape, thing.place) in HELD_OUT
        places = [x for x in PLACES if ((thing.colour, thing.shape, x) in HELD_OUT) is held_out]
        place = thing.place if thing.placed else places[rng.integers(len(places))]
        rows, columns = rng.integers(0, 2, 2)
        things.append(replace(thing, place=place, shift=(int(rows), int(columns))))
    return replace(scene, things=tuple(things), gain=float(rng.uniform(*gains)))
