"""Digits and drawn scenes: files that are complete, the same each time, and rows whose answers are what is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxpo.corpora import asked_scenes as scenes
from jaxpo.corpora import digits


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_digits_are_split_asked_and_paired(tmp_path):
    report = digits.Digits(held_out=97).build(tmp_path)
    assert report["counts"] == {"digits_train": 1700, "digits_heldout": 97}
    train, held = (rows_of(tmp_path / name) for name in (digits.TRAIN, digits.HELD_OUT))
    images = [{row["images"][0] for row in rows} for rows in (train, held)]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == 1797
    answers = [int(row["completion"][0]["content"]) for row in train + held]
    assert np.bincount(answers).min() > 150
    assert np.asarray(Image.open(tmp_path / held[0]["images"][0])).shape == (8, 8, 3)
    blind = rows_of(tmp_path / digits.BLIND_HELD_OUT)
    assert blind == [{k: v for k, v in row.items() if k != "images"} for row in held]
    for row, pair in zip(held, rows_of(tmp_path / digits.PAIRS_HELD_OUT), strict=True):
        assert (pair["chosen"], pair["images"]) == (row["completion"], row["images"])
        assert pair["rejected"] != pair["chosen"]
    assert digits.Digits(held_out=97).build(tmp_path)["reused"]
    assert not digits.Digits(held_out=96).build(tmp_path)["reused"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scenes.AskedScenes(train=40, held_out=20).build(folder)
    return folder


def seen(path):
    """Colour at the middle of each quarter; None where it is the ground."""
    image = np.asarray(Image.open(path)).astype(int)
    known = {tuple(colour): name for name, colour in scenes.COLOURS.items()}
    middle = scenes.CELL // 2
    return [known.get(tuple(image[r + middle, c + middle])) for r in (0, scenes.CELL) for c in (0, scenes.CELL)]


def test_scenes_show_what_is_asked_about_them(made):
    train, held = (rows_of(made / name) for name in (scenes.TRAIN, scenes.HELD_OUT))
    assert {row["kind"] for row in train} == {"count", "colour", "shape", "place"}
    assert not {row["images"][0] for row in train} & {row["images"][0] for row in held}
    for row in train + held:
        (question,), (answer,) = row["prompt"], row["completion"]
        colours = seen(made / row["images"][0])
        asked, said = question["content"], answer["content"]
        if row["kind"] == "count":
            assert int(said) == sum(colour is not None for colour in colours)
        elif row["kind"] == "place":
            assert colours[scenes.PLACES.index(said)] is not None
        elif row["kind"] == "colour":
            assert said in colours
        else:
            assert colours.count(asked.removeprefix("What shape is ").removesuffix("?")) == 1
    for name, rows in ((scenes.BLIND_TRAIN, train), (scenes.BLIND_HELD_OUT, held)):
        assert rows_of(made / name) == [{k: v for k, v in row.items() if k != "images"} for row in rows]
    for row in rows_of(made / scenes.CAPTIONS):
        things = [part.split(" ", 2) for part in row["text"].strip().split(", ")]
        colours = seen(made / row["images"][0])
        assert [colour for colour, _, _ in things] == [colour for colour in colours if colour]
        assert [colours[scenes.PLACES.index(place)] for _, _, place in things] == [colour for colour, _, _ in things]


def test_a_scene_is_drawn_alike_each_time(made, tmp_path):
    scenes.AskedScenes(train=40, held_out=20).build(tmp_path)
    for name in (scenes.TRAIN, scenes.HELD_OUT, scenes.CAPTIONS, scenes.TEXT):
        assert (made / name).read_bytes() == (tmp_path / name).read_bytes()
    for image in sorted(p.name for p in (made / "images").iterdir())[:5]:
        np.testing.assert_array_equal(*(np.asarray(Image.open(f / "images" / image)) for f in (made, tmp_path)))
