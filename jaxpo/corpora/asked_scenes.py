"""Drawn scenes with questions that have one answer: colour, shape, place and number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.pictures import write_png

FORMAT = 2
CELL = 16
"""Pixels along the side of a quarter of the picture."""
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 205, 40)}
SHAPES = ("square", "circle", "triangle")
PLACES = ("top left", "top right", "bottom left", "bottom right")
CAPTIONS, TRAIN, HELD_OUT, TEXT = "captions.jsonl", "scenes_train.jsonl", "scenes_heldout.jsonl", "text_train.jsonl"
BLIND_TRAIN, BLIND_HELD_OUT = "blind_train.jsonl", "blind_heldout.jsonl"


@dataclass(frozen=True)
class Thing:
    """A shape in a quarter of the picture."""

    shape: str
    colour: str
    place: int


@dataclass(frozen=True)
class AskedScenes:
    """Pictures of one to four things, captions of them, questions about them, the same without them, and text alone.

    A scene that is held out, with all its things and their places, is in no training row.

    Attributes:
      train, held_out: pictures.
      seed: of what is drawn.
    """

    train: int = 3000
    held_out: int = 300
    seed: int = 0

    def build(self, directory: Path) -> dict[str, Any]:
        """Write `images/` and six files of rows, unless they are there."""
        inputs = hashlib.sha256(json.dumps({"format": FORMAT, **asdict(self)}).encode()).hexdigest()[:16]
        report = reusable(directory, inputs)
        if report is not None and (directory / "images").is_dir():
            return {**report, "reused": True}
        rng = np.random.default_rng(self.seed)
        drawn = _different(rng, self.train + self.held_out)
        for i, scene in enumerate(drawn):
            write_png(directory / _name(i), picture(scene, rng))
        rows = [[*questions(i, scene)] for i, scene in enumerate(drawn)]
        asked: dict[str, list[Mapping[str, object]]] = {
            TRAIN: [row for own in rows[: self.train] for row in own],
            HELD_OUT: [row for own in rows[self.train :] for row in own],
        }
        files: dict[str, list[Mapping[str, object]]] = {
            CAPTIONS: [{"text": f" {caption(s)}", "images": [_name(i)]} for i, s in enumerate(drawn[: self.train])],
            **asked,
            BLIND_TRAIN: [without_images(row) for row in asked[TRAIN]],
            BLIND_HELD_OUT: [without_images(row) for row in asked[HELD_OUT]],
            TEXT: [_spelt(rng) for _ in range(self.train // 3)],
        }
        counts = {name.removesuffix(".jsonl"): len(own) for name, own in files.items()}
        made = f"{self.train:,} pictures with {counts['scenes_train']:,} questions"
        lines = [f"questions about scenes: {made}, {self.held_out:,} held out"]
        return {**write(directory, files, {"counts": counts, "lines": lines, "inputs": inputs}), "reused": False}


def _different(rng: np.random.Generator, count: int) -> list[tuple[Thing, ...]]:
    """Scenes of which no two are alike."""
    found: dict[tuple[Thing, ...], None] = {}
    while len(found) < count:
        places = np.sort(rng.permutation(len(PLACES))[: rng.integers(1, len(PLACES) + 1)]).tolist()
        colours = [list(COLOURS)[k] for k in rng.integers(0, len(COLOURS), len(places))]
        shapes = [SHAPES[k] for k in rng.integers(0, len(SHAPES), len(places))]
        found[tuple(Thing(*each) for each in zip(shapes, colours, places, strict=True))] = None
    return list(found)


def picture(scene: tuple[Thing, ...], rng: np.random.Generator) -> np.ndarray:
    """uint8 `[32, 32, 3]`: each thing of its own size in its quarter, on a light ground."""
    canvas = np.full((2 * CELL, 2 * CELL, 3), 240, np.uint8)
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    for thing in scene:
        half = rng.uniform(4.0, 6.5)
        inside = {
            "square": np.maximum(abs(x), abs(y)) <= half,
            "circle": np.hypot(x, y) <= half,
            "triangle": (y <= half) & (y >= -half) & (abs(x) <= (y + half) / 2),
        }[thing.shape]
        row, column = divmod(thing.place, 2)
        canvas[row * CELL :, column * CELL :][:CELL, :CELL][inside] = COLOURS[thing.colour]
    return canvas


def caption(scene: tuple[Thing, ...]) -> str:
    """What is to be seen, in the order of reading."""
    return ", ".join(f"{thing.colour} {thing.shape} {PLACES[thing.place]}" for thing in scene)


def questions(i: int, scene: tuple[Thing, ...]) -> Iterator[dict[str, Any]]:
    """How many; and of the first thing that is the only one of its kind: its colour, its shape, its place."""
    yield _asked(i, "count", "How many?", str(len(scene)))
    for of, kind, ask in (
        ("shape", "colour", "What colour is the {}?"),
        ("colour", "shape", "What shape is {}?"),
        ("shape", "place", "Where is the {}?"),
    ):
        names = [getattr(thing, of) for thing in scene]
        if only := [thing for thing, name in zip(scene, names, strict=True) if names.count(name) == 1]:
            answer = PLACES[only[0].place] if kind == "place" else getattr(only[0], kind)
            yield _asked(i, kind, ask.format(getattr(only[0], of)), answer)


def without_images(row: Mapping[str, object]) -> dict[str, object]:
    """The question alone."""
    return {name: value for name, value in row.items() if name != "images"}


def _asked(i: int, kind: str, question: str, answer: str) -> dict[str, Any]:
    turns = {"prompt": _turn("user", question), "completion": _turn("assistant", answer)}
    return {**turns, "images": [_name(i)], "kind": kind}


def _spelt(rng: np.random.Generator) -> dict[str, Any]:
    """A row of text alone: a word backwards."""
    word = "".join(chr(97 + k) for k in rng.integers(0, 26, 4))
    return {"prompt": _turn("user", f"Backwards: {word}"), "completion": _turn("assistant", word[::-1])}


def _turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _name(i: int) -> str:
    return f"images/{i:05d}.png"
