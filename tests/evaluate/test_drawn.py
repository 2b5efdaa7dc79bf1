"""Grids of what a model draws: kept for the first process, enlarged, and shown by the report."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
from PIL import Image

from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.drawn import DRAWN, MOST, keep_drawn
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.shown import shown
from jaxpo.evaluate.visual_questions import SHOWN


def kept(folder, rows, captions=("a", "b")):
    context = ProbeContext(params=None, scorer=None, tokenizer=None, stage="dpo", run_dir=folder)
    keep_drawn(context, "samples", captions, rows)
    return folder / SHOWN / "dpo-samples.json"


def test_rows_are_pictures_of_their_images_side_by_side(tmp_path):
    images = np.stack([np.full((8, 8, 3), value, np.float32) for value in (-1.0, 1.0)])
    found = json.loads(kept(tmp_path, {"before": images, "dpo": -images}).read_text())
    assert [row["label"] for row in found[DRAWN]] == ["before", "dpo"]
    data = base64.b64decode(found[DRAWN][1]["image"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (48 + 4, 2 * 48 + 6, 3)
    assert pixels[10, 10].tolist() == [255] * 3
    assert pixels[10, -10].tolist() == [0] * 3


def test_a_report_shows_them_and_nothing_that_is_no_picture(tmp_path):
    found = json.loads(kept(tmp_path, {"before": np.zeros((20, 8, 8, 3), np.float32)}, ["<c>"] * 20).read_text())
    assert found["captions"] == ["<c>"] * MOST
    found[DRAWN].append({"label": "<b>", "image": "javascript:x"})
    (page,) = shown(RunData(path=tmp_path, name="run", shown=[found]))
    assert "samples after dpo" in page
    assert page.count("<img") == 1
    assert "javascript" not in page
    assert "<c>" not in page
    assert "<b>" not in page


def test_latents_are_no_pictures(tmp_path):
    assert not kept(tmp_path, {"before": np.zeros((1, 8, 8, 4), np.float32)}).exists()
