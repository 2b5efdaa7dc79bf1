"""Resizing by float64, the order of patches by its definition, and what the two processor files say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.data.media.geometry import geometry, grids
from jaxpo.data.media.patches import cut, pieces
from jaxpo.data.media.resize import matrix, resize
from jaxpo.data.media.settings import ImageSettings, read_settings
from jaxpo.errors import CheckpointError, ConfigError


def bilinear(n_in, n_out):
    """The antialiased weights, from their definition alone."""
    scale = n_in / n_out
    out = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            out[i, j] = max(0.0, 1 - abs((j + 0.5) - scale * (i + 0.5)) / max(scale, 1.0))
    return out / out.sum(1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_weights_are_the_bilinear_ones_to_fifteen_bits(n_in, n_out):
    weights, bits = matrix(n_in, n_out)
    found = weights.toarray() / 2**bits
    np.testing.assert_allclose(found, bilinear(n_in, n_out), atol=2.0**-bits)
    assert weights.data.max() < 2**15
    assert int(abs(weights).sum(1).max()) * 255 + 2 ** (bits - 1) < 2**31, "sums fit into int32"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_resizing_is_the_two_products_to_a_level_each(h, w, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)
    want = np.einsum("ia,jb,abc->ijc", bilinear(h, height), bilinear(w, width), image.astype(np.float64))
    found = resize(image, height, width)
    assert found.shape == (height, width, 3)
    assert np.abs(found - want).max() <= 1.1


def test_a_constant_image_stays_itself_and_equal_sizes_are_not_touched():
    flat = np.full((33, 70, 3), 201, np.uint8)
    np.testing.assert_array_equal(resize(flat, 512, 17), 201)
    assert resize(flat, 33, 70) is flat


def test_patches_stand_in_the_order_of_the_connector():
    own = ImageSettings(encoder_patch_size=2, tile_size=4)
    piece = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    found = cut(piece, own)
    rows, columns = 4, 6
    at = 0
    for i in range(rows // 2):
        for j in range(columns // 2):
            for r, c in ((2 * i, 2 * j), (2 * i, 2 * j + 1), (2 * i + 1, 2 * j), (2 * i + 1, 2 * j + 1)):
                np.testing.assert_array_equal(found.values[at], piece[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].ravel())
                np.testing.assert_array_equal(found.positions[at], [r, c, rows, columns])
                at += 1
    assert at == len(found)


def test_tiles_come_row_by_row_and_the_thumbnail_last():
    own = ImageSettings()
    image = np.zeros((1000, 3000, 3), np.uint8)
    image[:, :1000], image[:, 1000:2000], image[:, 2000:] = 10, 100, 250
    found = list(pieces(image, geometry(1000, 3000, own)))
    assert [piece.shape[:2] for piece in found] == [(512, 512)] * 3 + [(288, 864)]
    assert [int(piece[256, 256, 0]) for piece in found[:3]] == [10, 100, 250]


def test_grids_of_one_area_come_in_the_order_of_transformers():
    text = "1,2 2,1 3,1 1,3 2,2 4,1 1,4 5,1 1,5 1,6 6,1 3,2 2,3 7,1 1,7 4,2 2,4 1,8 8,1 1,9 3,3 9,1 2,5 5,2 10,1 1,10"
    assert grids(2, 10) == tuple(tuple(map(int, each.split(","))) for each in text.split())


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_both_files_are_read_and_the_processor_wins(tmp_path):
    assert read_settings(tmp_path) is None
    write(tmp_path, "preprocessor_config.json", {"max_tiles": 4, "use_thumbnail": False, "size": {"height": 9}})
    write(tmp_path, "processor_config.json", {"image_processor": {"max_tiles": 6, "image_mean": [0.4, 0.5, 0.6]}})
    assert read_settings(tmp_path) == ImageSettings(max_tiles=6, use_thumbnail=False, image_mean=(0.4, 0.5, 0.6))


def test_settings_survive_a_file(tmp_path):
    own = ImageSettings(max_tiles=5, do_image_splitting=False)
    write(tmp_path, "preprocessor_config.json", own.to_json())
    assert read_settings(tmp_path) == own


WRONG = [
    ({"do_normalize": False}, "do_normalize is False"),
    ({"resample": 3}, "resample is 3"),
    ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
    ({"max_tiles": 1}, "max_tiles is 1, less than min_tiles"),
    ({"tile_size": 500}, "tile_size must be a multiple of 32"),
    ({"max_tiles": "many"}, "max_tiles|not supported"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_files_of_another_model_are_refused(tmp_path, content, message):
    write(tmp_path, "preprocessor_config.json", content)
    with pytest.raises(CheckpointError, match=message):
        read_settings(tmp_path)


def test_wrong_settings_are_all_named():
    with pytest.raises(ConfigError, match=r"(?s)max_image_tokens is 8.*image_mean"):
        ImageSettings(max_image_tokens=8, image_std=(0.0, 1.0, 1.0))
