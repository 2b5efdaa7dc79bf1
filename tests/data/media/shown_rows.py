"""Sizes, small images and what the tests of rows with images read of them."""

from __future__ import annotations

from jaxpo.config import Data, Images, ImageSettings
from jaxpo.data.media.marks import NAMES

SIZES = ImageSettings(encoder_patch_size=4, tile_size=16, min_image_tokens=1, max_image_tokens=4, max_tiles=4)
"""Pieces of one to four vectors of 8 by 8 pixels; more pixels than twice that are cut into tiles."""
IMAGES = Images(sizes=SIZES)
DATA = Data(max_length=96, row_length=96, images=IMAGES)
SHAPES = {"a.png": (16, 16), "b.png": (8, 24), "c.png": (40, 24), "d.png": (8, 8)}
"""c is cut into two tiles and has a thumbnail."""


def said(dataset, role="completion", number=0):
    """The text of a segment with each image's ids as one, and what is trained on of it."""
    (example,) = dataset.store.read([number])
    segment = example.segments[example.roles[role]]
    names = {i: name for name, i in dataset.tokenizer.special_ids.items() if name in NAMES}
    text, learnt = "", ""
    for token, flag in zip(segment.tokens.tolist(), segment.supervised, strict=True):
        piece = names.get(token) or dataset.tokenizer.decode([token], skip_special_tokens=False)
        text += piece
        learnt += piece if flag else ""
    return text, learnt


ONE = "<|image_start|>" + "<image>" * 4 + "<|image_end|>"
TURNS = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "red"}]
