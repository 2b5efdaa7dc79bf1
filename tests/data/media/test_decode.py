"""Images of every kind that users have, good and bad."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from jaxpo.data.media.decode import ImageLimits, image_size, pixels
from jaxpo.errors import BadImage, DataError

ANY = ImageLimits()


def noise(height=5, width=7, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, (height, width, channels)).astype(dtype).squeeze()


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_rgb_comes_back_as_it_was_from_bytes_path_url_and_object(tmp_path):
    want = noise()
    data = encoded(Image.fromarray(want))
    (tmp_path / "a.png").write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for payload in (
        data,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        url,
        {"bytes": data},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        np.testing.assert_array_equal(pixels(payload, ANY), want)
        assert image_size(payload, ANY) == (5, 7)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1"])
def test_other_modes_are_converted_as_pillow_does(mode):
    image = Image.fromarray(noise()).convert(mode)
    np.testing.assert_array_equal(pixels(encoded(image), ANY), np.asarray(image.convert("RGB")))


def test_cmyk_is_converted():
    image = Image.fromarray(noise(16, 16)).convert("CMYK")
    assert pixels(encoded(image, "JPEG"), ANY).shape == (16, 16, 3)


def test_sixteen_bits_are_scaled_not_cut():
    values = np.linspace(0, 65535, 35).reshape(5, 7).astype(np.uint16)
    found = pixels(encoded(Image.fromarray(values)), ANY)
    np.testing.assert_array_equal(found, np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pixels_and_size_alike(orientation):
    image = Image.fromarray(noise())
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    found = pixels(data, ANY)
    assert found.shape[:2] == image_size(data, ANY) == ((7, 5) if orientation >= 5 else (5, 7))


def test_of_an_animation_the_first_frame_is_seen():
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels(data, ANY), 10)


def broken():
    whole = encoded(Image.fromarray(noise(64, 64)))
    return {
        "empty": (b"", "is empty"),
        "text": (b"no image at all", "this is none of PNG"),
        "cut": (whole[: len(whole) // 2], "is broken"),
        "url": ("https://example.org/a.png", "not fetched"),
        "wrong data url": ("data:image/png,abc", "must be data:image"),
        "wrong base64": ("data:image/png;base64,@@@", "no base64"),
        "a number": (3, "not int"),
        "an object of nothing": ({"bytes": None, "path": None}, "not NoneType"),
        "absent": ("nowhere.png", "no such file"),
    }


@pytest.mark.parametrize("case", broken())
def test_what_is_no_image_is_said(case):
    payload, message = broken()[case]
    with pytest.raises(DataError, match=message):
        pixels(payload, ANY)


def test_limits_hold_before_anything_is_decoded(tmp_path):
    data = encoded(Image.fromarray(np.zeros((100, 100, 3), np.uint8)))
    with pytest.raises(DataError, match="100 x 100 pixels, more than 9,999"):
        image_size(data, ImageLimits(max_pixels=9_999))
    with pytest.raises(DataError, match="bytes, more than 10"):
        image_size(data, ImageLimits(max_bytes=10))


def test_files_outside_the_root_are_refused_links_too(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    data = encoded(Image.fromarray(noise()))
    (tmp_path / "out.png").write_bytes(data)
    (root / "in.png").write_bytes(data)
    os.symlink(tmp_path / "out.png", root / "link.png")
    limits = ImageLimits(root=root)
    assert pixels("in.png", limits).shape == (5, 7, 3)
    for name in ("../out.png", str(tmp_path / "out.png"), "link.png"):
        with pytest.raises(DataError, match="outside"):
            pixels(name, limits)


def test_a_png_is_turned_as_exif_behind_its_pixels_says():
    want = noise()
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(Image.fromarray(want), exif=exif)
    at = whole.index(b"eXIf") - 4
    length = int.from_bytes(whole[at : at + 4], "big") + 12
    chunk, rest = whole[at : at + length], whole[:at] + whole[at + length :]
    end = rest.index(b"IEND") - 4
    for data in (whole, rest[:end] + chunk + rest[end:]):
        assert image_size(data, ANY) == (7, 5)
        assert pixels(data, ANY).shape == (7, 5, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_exif_and_names_that_are_none_are_bad_images_like_others(kind, tmp_path):
    """What Pillow and the file system raise over them is of no common kind, and would pass by `on_bad_image`."""
    broken = encoded(Image.fromarray(noise()), kind, exif=b"Exif\0\0no TIFF at all")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for payload in (broken, "a\0b.png", "loop.png"):
        for read in (image_size, pixels):
            with pytest.raises(BadImage):
                read(payload, ImageLimits(root=tmp_path))
