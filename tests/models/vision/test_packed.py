"""The packed tower against float64 numpy, one image at a time; what a neighbour changes; what text alone gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.data.media.patches import cut
from jaxpo.data.media.settings import ImageSettings
from jaxpo.data.packing.batch import Media
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward as text_forward
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.lfm2_vl.forward import forward, image_vectors, normalise, placed
from jaxpo.models.lfm2_vl.reference import reference_text, reference_vectors
from jaxpo.models.lfm2_vl.table import param_table
from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.spec import init_params, leaves

TEXT = LFM2Config(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.3,
)
VISION = SiglipConfig(
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    patch_size=2,
    num_patches=16,
    initializer_range=0.3,
)
CONFIG = LFM2VLConfig(TEXT, VISION, image_token_id=39, projector_hidden_size=10)
SETTINGS = ImageSettings(encoder_patch_size=2, tile_size=4)
GRIDS = ((4, 6), (2, 10), (8, 2), (2, 2))
PLACES = 64
"""Patches that a row has room for; 64 of 64 + 8 are taken."""


@pytest.fixture(scope="module")
def params():
    drawn = init_params(param_table(CONFIG), jax.random.key(0))
    # Biases and norms that are not at their beginnings.
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


@pytest.fixture(scope="module")
def tensor(params):
    flat = [
        (param, value) for (_, param), value in zip(leaves(param_table(CONFIG)), jax.tree.leaves(params), strict=True)
    ]
    found = {param.hf: param.layout.to_disk(np.asarray(value)) for param, value in flat}
    return found.__getitem__


def image(rows, columns, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * rows, 2 * columns, 3)).astype(np.uint8)
    flat = pixels.reshape(rows, 2, columns, 2, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 12)
    return cut(pixels, SETTINGS), (flat.astype(np.float64) - 127.5) / 127.5


def packed(images, length=PLACES + 8):
    """One row of a grid."""
    values, segments = np.zeros((1, length, 12), np.uint8), np.zeros((1, length), np.int32)
    positions = np.zeros((1, length, 4), np.int32)
    at = 0
    for number, each in enumerate(images, 1):
        here = slice(at, at + len(each))
        values[0, here], positions[0, here], segments[0, here] = each.values, each.positions, number
        at += len(each)
    return Media(*map(jnp.asarray, (values, segments, positions)))


vectors = jax.jit(
    lambda params, media: image_vectors(params, media, config=CONFIG, dtype=jnp.float32, remat=False, attention=None)
)


def test_vectors_of_packed_images_are_those_of_each_alone(params, tensor):
    both = [image(*grid, seed=i) for i, grid in enumerate(GRIDS)]
    found = np.asarray(vectors(params, packed([one for one, _ in both])))[0]
    want = [reference_vectors(tensor, CONFIG, flat, rows) for (_, flat), (rows, _) in zip(both, GRIDS, strict=True)]
    np.testing.assert_allclose(found[: PLACES // 4], np.concatenate(want), atol=2e-5)


def test_a_neighbour_changes_nothing_forward_or_backward(params):
    first, _ = image(4, 6)

    def value(params, media):
        found = image_vectors(params, media, config=CONFIG, dtype=jnp.float32, remat=True, attention=None)
        return jnp.sum(jnp.sin(found[0, :6]))

    run = jax.jit(jax.value_and_grad(value))
    alone, gradient = run(params, packed([first]))
    beside, other = run(params, packed([first, image(2, 10, seed=5)[0], image(8, 2, seed=6)[0]]))
    assert float(alone) == pytest.approx(float(beside), abs=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
        assert np.isfinite(np.asarray(a)).all()


def test_text_alone_is_lfm2(params, tensor):
    tokens = np.random.default_rng(0).integers(0, 39, 9).astype(np.int32)
    where = jnp.ones((1, 9), jnp.int32), jnp.arange(9)[None]
    hidden, _ = forward(params, Inputs(jnp.asarray(tokens)[None], *where), config=CONFIG)
    text = {name: params[name] for name in ("embed_tokens", "layers", "embedding_norm")}
    np.testing.assert_array_equal(hidden, text_forward(text, jnp.asarray(tokens)[None], *where, config=TEXT)[0])
    np.testing.assert_allclose(hidden[0], reference_text(tensor, CONFIG, tokens), atol=2e-5)


def test_bytes_are_normalised_by_channel_and_numbers_are_taken_as_they_are():
    config = LFM2VLConfig(TEXT, VISION, 39, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.5))
    found = normalise(jnp.asarray([[[0, 128, 255] * 4]], jnp.uint8), config, jnp.float32)
    want = [(0 - 0.4) / 0.2, (128 / 255 - 0.5) / 0.3, (1 - 0.6) / 0.5] * 4
    np.testing.assert_allclose(found[0, 0], want, atol=1e-6)
    floats = jnp.full((1, 1, 12), 7.5)
    np.testing.assert_array_equal(normalise(floats, config, jnp.float32), floats)


def test_vectors_are_placed_within_their_blocks():
    x = jnp.zeros((2, 3, 1))
    given = jnp.asarray([1.0, 2, 3, 4]).reshape(2, 2, 1)
    places = jnp.asarray([[1, -1, 0], [-1, 0, 1]])
    np.testing.assert_array_equal(placed(x, given, places, 2)[..., 0], [[2, 0, 1], [0, 3, 4]])
    np.testing.assert_array_equal(
        placed(x, given, jnp.asarray([[3, -1, 0], [-1, 2, 1]]), 1)[..., 0], [[4, 0, 1], [0, 3, 2]]
    )
    with pytest.raises(ValueError, match="places"):
        placed(x, given, None, 1)


def test_every_parameter_has_a_gradient_and_no_padding_leaks(params):
    one, _ = image(4, 6)
    tokens = jnp.asarray([[1, *[39] * 6, 5, 6]], jnp.int32)
    inputs = Inputs(
        tokens,
        jnp.ones((1, 9), jnp.int32),
        jnp.arange(9)[None],
        media={"image": packed([one])},
        places=jnp.asarray([[-1, 0, 1, 2, 3, 4, 5, -1, -1]]),
    )

    def value(params, inputs):
        hidden, _ = forward(params, inputs, config=CONFIG)
        return jnp.sum(jnp.sin(hidden))

    run = jax.jit(jax.value_and_grad(value))
    loss, gradient = run(params, inputs)
    for (path, _), leaf in zip(leaves(param_table(CONFIG)), jax.tree.leaves(gradient), strict=True):
        # The softmax does not see a key's bias.
        assert path.endswith("k_proj/bias") or float(jnp.abs(leaf).max()) > 0, path
    # What lies in the padding of the grid is not read.
    noisy = inputs.media["image"].replace(values=inputs.media["image"].values.at[0, len(one) :].set(200))
    again, _ = run(params, inputs.replace(media={"image": noisy}))
    assert float(again) == pytest.approx(float(loss), abs=1e-6)
