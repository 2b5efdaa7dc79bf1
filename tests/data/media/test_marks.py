"""Ids of images: layouts that were computed with the ecosystem's own processor, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpo.data.media.geometry import geometry
from jaxpo.data.media.marks import CELL, END, IMAGE, START, THUMBNAIL, expand, find_marks
from jaxpo.data.media.settings import ImageSettings
from jaxpo.errors import ConfigError, DataError

IDS = {
    IMAGE: 396,
    **{CELL.format(row=r, column=c): 397 + 10 * (r - 1) + c - 1 for r in range(1, 11) for c in range(1, 11)},
    THUMBNAIL: 497,
    START: 498,
    END: 499,
}
MARKS = find_marks(IDS, 396)


def plan(height, width, **settings):
    return geometry(height, width, ImageSettings(**settings))


def runs(ids):
    """`396x256` for 256 times 396."""
    edges = np.flatnonzero(np.diff(ids)) + 1
    parts = np.split(ids, edges)
    return " ".join(f"{part[0]}x{len(part)}" if len(part) > 1 else str(part[0]) for part in parts)


@pytest.mark.parametrize(
    ("height", "width", "layout"),
    [
        (256, 384, "498 396x96 499"),
        (1000, 3000, "498 397 396x256 398 396x256 399 396x256 497 396x243 499"),
        (3000, 1000, "498 397 396x256 407 396x256 417 396x256 497 396x243 499"),
        (740, 740, "498 397 396x256 398 396x256 407 396x256 408 396x256 497 396x256 499"),
    ],
)
def test_layouts(height, width, layout):
    assert runs(MARKS.of(plan(height, width))) == layout


LENGTHS = [
    ((1080, 1920), {"do_image_splitting": False}, 252, 254),
    ((1000, 3000), {"do_image_splitting": False}, 243, 245),
    ((1080, 1920), {"use_thumbnail": False}, 2048, 2058),
    ((1000, 3000), {"use_thumbnail": False}, 768, 773),
    ((300, 500), {"use_thumbnail": False}, 144, 146),
    ((1080, 1920), {"max_image_tokens": 128, "min_image_tokens": 32}, 2168, 2179),
    ((1080, 1920), {"max_tiles": 4}, 764, 769),
    ((2000, 2000), {}, 2560, 2572),
]


@pytest.mark.parametrize(("size", "settings", "tokens", "length"), LENGTHS)
def test_tokens_and_length_under_other_settings(size, settings, tokens, length):
    found = plan(*size, **settings)
    assert (found.tokens, len(MARKS.of(found))) == (tokens, length)


def test_a_text_of_two_images():
    ids, vectors = expand(np.asarray([1, 6, 396, 7, 396, 8], np.int32), [plan(256, 384), plan(1000, 3000)], MARKS)
    assert runs(ids) == ("1 6 498 396x96 499 7 498 397 396x256 398 396x256 399 396x256 497 396x243 499 8")
    assert np.array_equal(vectors >= 0, ids == 396)
    np.testing.assert_array_equal(vectors[vectors >= 0], np.arange(96 + 1011))


@pytest.mark.parametrize("images", [0, 2])
def test_as_many_images_as_marks(images):
    with pytest.raises(DataError, match=f"1 places for images .* {images} images are given"):
        expand(np.asarray([1, 396, 2]), [plan(64, 64)] * images, MARKS)


def test_marks_are_found_by_their_strings():
    with pytest.raises(ConfigError, match=r"image_token_id of the model is 396, but <image> is 124907"):
        find_marks({**IDS, IMAGE: 124907}, 396)
    with pytest.raises(ConfigError, match=r"no token <\|img_row_1_col_1\|> and 99 more"):
        find_marks({name: number for name, number in IDS.items() if "row" not in name}, 396)


def test_an_image_that_is_too_long_is_refused():
    with pytest.raises(DataError, match="too long for its breadth"):
        plan(1, 100_000)
    with pytest.raises(DataError, match="nothing to see"):
        plan(0, 10)
