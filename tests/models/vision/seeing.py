"""A tiny model that sees, its tokenizer and viewer, and images for it."""

from __future__ import annotations

import functools
import io

import jax
import numpy as np
from PIL import Image

from jaxpo.config import ImageSettings
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.seeing import with_images
from jaxpo.models.family import param_table
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.spec import init_params
from jaxpo.sampling.viewing import viewer_of

SETTINGS = ImageSettings(
    encoder_patch_size=2, tile_size=8, min_tiles=2, max_tiles=4, min_image_tokens=1, max_image_tokens=4
)
"""A vector is 4 by 4 pixels; what has more than eight of them is cut into tiles of four, and has a thumbnail."""


@functools.cache
def tokenizer():
    return with_images(train_tokenizer(["what is this? the quick brown fox. " * 3], 290), SETTINGS)


@functools.cache
def config():
    found = tokenizer()
    text = LFM2Config(
        vocab_size=found.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention", "conv"),
        max_position_embeddings=192,
        initializer_range=0.4,
    )
    tower = SiglipConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=2,
        num_patches=16,
        initializer_range=0.4,
    )
    return LFM2VLConfig(text, tower, found.special_ids["<image>"], projector_hidden_size=10)


@functools.cache
def weights(seed=0):
    drawn = init_params(param_table(config()), jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


@functools.cache
def viewer():
    return viewer_of(config(), tokenizer())


def png(height=8, width=8, seed=0, **options):
    """Bytes of a file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return saved(Image.fromarray(pixels), **options)


def saved(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
