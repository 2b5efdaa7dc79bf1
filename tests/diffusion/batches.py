"""A tiny model that denoises, and hand-made batches of images and of pairs for it."""

from __future__ import annotations

import numpy as np

from jaxpo.data.images.batch import ImageBatch
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.denscore.config import DenscoreConfig
from jaxpo.models.dit.config import DiTConfig
from jaxpo.objectives.encode import Scorer

SIZE, LENGTH, USERS = 4, 3, (2, 8)
CONFIG = DiTConfig(
    sample_size=SIZE,
    patch_size=2,
    in_channels=3,
    out_channels=3,
    num_layers=1,
    num_attention_heads=2,
    attention_head_dim=8,
    caption_channels=16,
    user_channels=USERS[1],
    caption=CaptionConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        max_length=LENGTH,
        num_hidden_layers=0,
    ),
)
SCORER = Scorer(CONFIG)
JUDGE = DenscoreConfig(sample_size=SIZE, hidden_size=8, projection_dim=8, vocab_size=16, max_length=LENGTH)


def batch(count: int = 16, images: int = 2, seed: int = 0, absent: tuple[int, ...] = (3,)) -> ImageBatch:
    """Random images and captions; the examples in `absent` are none."""
    rng = np.random.default_rng(seed)
    ids = np.arange(count, dtype=np.int32) + 100 * seed
    ids[list(absent)] = -1
    tokens = rng.integers(1, 16, (count, 1, LENGTH)).astype(np.int32)
    columns = {
        "rewards": rng.random((count, 2)).astype(np.float32),
        "user_tokens": rng.standard_normal((count, *USERS)).astype(np.float32),
        "label": (rng.random(count) < 0.5).astype(np.float32),
        "weight": (0.5 + rng.random(count)).astype(np.float32),
    }
    shown = rng.uniform(-1, 1, (count, images, SIZE, SIZE, 3)).astype(np.float32)
    return ImageBatch(shown, tokens, np.ones(tokens.shape, bool), columns, ids)
