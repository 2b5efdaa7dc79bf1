"""Prompts with images, good and bad, as chats and servers meet them; nothing is computed."""

from __future__ import annotations

import dataclasses
import io
import os

import numpy as np
import pytest
from models.tiny import CONFIG
from models.vision.seeing import SETTINGS, config, png, saved, tokenizer, viewer
from PIL import Image

from jaxpo.errors import BadImage, ConfigError, DataError
from jaxpo.sampling.prompts import Conversation
from jaxpo.sampling.viewing import conversation_of, question, seen, viewer_of

NOISE = Image.open(io.BytesIO(png(8, 8)))
TURNED = Image.Exif()
TURNED[0x0112] = 6
SIXTEEN = Image.fromarray(np.full((8, 8), 40_000, np.uint16))


def vectors(image, **changes):
    eyes = dataclasses.replace(viewer(), **changes)
    ids, shown = eyes.encode(conversation_of([question("what is this?", [image])]))
    assert eyes.planned(conversation_of([question("what is this?", [image])])) == ids
    return int((shown.places >= 0).sum()), shown


@pytest.mark.parametrize(
    "data",
    [
        png(8, 8),
        saved(NOISE.convert("CMYK"), "JPEG"),
        saved(NOISE.convert("P")),
        saved(NOISE.convert("LA")),
        saved(SIXTEEN),
        saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]),
        saved(NOISE, "WEBP"),
    ],
    ids=["rgb", "cmyk", "palette", "transparent", "16 bits", "animated", "webp"],
)
def test_images_of_every_kind_are_seen(data):
    assert vectors(data)[0] == 4


def test_a_turned_image_is_seen_upright():
    image = NOISE.crop((0, 0, 4, 8))
    _, shown = vectors(saved(image, exif=TURNED))
    _, upright = vectors(saved(image.transpose(Image.Transpose.ROTATE_270)))
    np.testing.assert_array_equal(shown.media[0].values, upright.media[0].values)
    assert shown.names == upright.names


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "is empty"),
        (png(8, 8)[:60], "broken|cannot be read"),
        (b"GIF89a", "none of PNG|cannot be read"),
        (png(1, 400), "too long for its breadth"),
        (png(100, 110), "110 x 100 pixels, more than 10,000"),
        ("https://example.org/a.png", "images are not fetched"),
        ("nowhere.png", "no such file"),
        ("../out.png", "lies outside"),
        ("link.png", "lies outside"),
        ("data:image/png;base64,@@", "no base64"),
        ({"path": None}, "an image is a path"),
    ],
    ids=["empty", "cut", "half", "long", "huge", "remote", "absent", "outside", "link", "no base64", "nothing"],
)
def test_bad_images_are_named_by_their_numbers(image, message, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.png").write_bytes(png())
    os.symlink(tmp_path / "out.png", root / "link.png")
    eyes = dataclasses.replace(viewer(), root=root, max_pixels=10_000)
    with pytest.raises(BadImage, match=f"image 1: .*({message})"):
        eyes.encode(conversation_of([question("what?", [png(), image])]))


def test_places_and_images_are_as_many():
    one = question("what?", [png()])
    for pictures in ((), (png(), png())):
        asked = Conversation([{"role": "user", "content": one["content"]}], pictures=pictures)
        if pictures:
            with pytest.raises(DataError, match="has 1 places for images"):
                viewer().encode(asked)
        else:  # a mark that nothing was shown for is a character like others
            assert viewer().encode(asked)[1] is None


def test_what_looks_like_a_mark_is_text():
    marks = tokenizer().special_ids
    text = "<image> <|image_start|> \ufdd0 <|img_row_1_col_1|>"
    ids, shown = viewer().encode(conversation_of([question(text, [png()])]))
    assert sum(i in (marks["<image>"], marks["<|image_start|>"]) for i in ids) == 5  # those of the image
    assert len(shown.media) == 1
    ids, shown = viewer().encode(conversation_of([question(text, [])]))
    assert shown is None
    assert marks["<image>"] not in ids


def test_files_may_be_forbidden_and_pixels_bounded_together(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(BadImage, match="image 0: files are not read here"):
        vectors("a.png", root=tmp_path, files=False)
    asked = conversation_of([question("what?", [png(100, 100), png(100, 100)])])
    assert viewer().encode(asked)[1] is not None
    with pytest.raises(BadImage, match="have 20,000 pixels, more than 15,000"):
        dataclasses.replace(viewer(), together=15_000).encode(asked)


def test_sizes_are_knobs():
    large = png(24, 24)
    assert vectors(large)[0] == 4 * 4 + 4
    for changes, count in (
        ({"max_tiles": 1}, 4),
        ({"max_image_tokens": 2, "max_tiles": 1}, 1),
        ({"min_tiles": 2, "max_tiles": 2}, 2 * 4 + 4),
    ):
        eyes = viewer_of(config(), tokenizer(), **changes)
        found = eyes.encode(conversation_of([question("", [large])]))[1]
        assert (found.places >= 0).sum() == count, changes
    assert viewer().settings == SETTINGS
    assert viewer().longest == 16
    with pytest.raises(ConfigError, match="max_tiles is 2, less than min_tiles, 3"):
        viewer_of(config(), tokenizer(), min_tiles=3, max_tiles=2)


def test_a_model_that_reads_text_says_so():
    assert viewer_of(CONFIG, tokenizer()) is None
    with pytest.raises(ConfigError, match="max_tiles: the model reads text alone"):
        viewer_of(CONFIG, tokenizer(), max_tiles=2)
    with pytest.raises(ConfigError, match="shows an image, and the model reads text alone"):
        seen(None, tokenizer(), conversation_of([question("what?", [png()])]))
    assert seen(None, tokenizer(), conversation_of([question("what?", [])]))[1] is None
