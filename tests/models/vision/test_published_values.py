"""A tiny LFM2-VL filled by formula: every value that the ecosystem's own code gave for it, gradients too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.data.packing.batch import Media
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.lfm2_vl.forward import connect, forward
from jaxpo.models.lfm2_vl.table import param_table
from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.siglip.forward import encode, position_vectors
from jaxpo.models.spec import leaves, map_table

IMAGE_ID = 39
IDS = np.asarray([[1, 5, 39, 39, 39, 39, 6, 39, 39, 39, 8, 9]], np.int32)
GRIDS = ((4, 4), (2, 6))
NORMS = ("norm.weight", "layernorm.weight", "layer_norm.weight", "norm1.weight", "norm2.weight")


def model(layer_norm):
    text = LFM2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention"),
    )
    vision = SiglipConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, patch_size=2, num_patches=16
    )
    return LFM2VLConfig(text, vision, IMAGE_ID, projector_hidden_size=10, projector_use_layernorm=layer_norm)


def filled(param):
    """p.flat[i] = 0.1 sin(0.7 i + h(name)) of the tensor in the file, norm weights plus 1."""
    name = param.hf
    shift = sum((i + 1) * ord(letter) for i, letter in enumerate(name)) % 997
    shape = param.layout.to_disk(np.zeros(param.shape)).shape
    values = 0.1 * np.sin(0.7 * np.arange(np.prod(shape)) + shift).reshape(shape)
    values = values + 1.0 if name.endswith(NORMS) else values
    return jnp.asarray(param.layout.from_disk(values.astype(np.float32), param.shape))


def connector_order(rows, columns):
    """Row-major places of the patches, in the order of the connector."""
    return [
        (2 * i + a, 2 * j + b) for i in range(rows // 2) for j in range(columns // 2) for a in (0, 1) for b in (0, 1)
    ]


def images():
    """Both images in one row of a packed grid."""
    flat = np.cos(0.3 * np.arange(2 * 16 * 12)).reshape(2, 16, 12).astype(np.float32)
    values, positions = [], []
    for image, (rows, columns) in zip(flat, GRIDS, strict=True):
        for r, c in connector_order(rows, columns):
            values.append(image[r * columns + c])
            positions.append((r, c, rows, columns))
    segments = np.repeat([1, 2], [16, 12]).astype(np.int32)
    return Media(jnp.asarray(values)[None], jnp.asarray(segments)[None], jnp.asarray(positions, jnp.int32)[None])


def inputs():
    media = images()
    is_vector = IDS == IMAGE_ID
    places = np.where(is_vector, np.cumsum(is_vector) - 1, -1).astype(np.int32)
    where = {"segment_ids": jnp.ones_like(IDS), "positions": jnp.arange(IDS.shape[1])[None]}
    return Inputs(jnp.asarray(IDS), **where, media={"image": media}, places=jnp.asarray(places))


def logits_of(params, given, config):
    hidden, _ = forward(params, given, config=config)
    return hidden @ params["embed_tokens"]["weight"].T


def loss_of(params, given, config):
    """Mean over the next tokens that are no image."""
    labels = np.where(IDS == IMAGE_ID, -100, IDS)[0, 1:]
    kept = np.flatnonzero(labels != -100)
    logp = jax.nn.log_softmax(logits_of(params, given, config)[0, :-1])
    return -jnp.mean(logp[kept, labels[kept]])


@pytest.fixture(scope="module", params=[True, False], ids=["layer norm", "no layer norm"])
def case(request):
    config = model(request.param)
    params = map_table(filled, param_table(config))
    given = inputs()
    loss, gradient = jax.jit(jax.value_and_grad(loss_of), static_argnums=2)(params, given, config)
    return request.param, config, params, given, float(loss), gradient


def close(found, want, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(found), want, atol=tolerance)


def test_the_tower(case):
    _, config, params, given, _, _ = case
    media = given.media["image"]
    hidden = encode(params["vision"], media.values, media.segment_ids, media.positions, config=config.vision)
    close(hidden[0, 0, :4], [0.558414, -1.860051, 0.574838, 0.564426])
    close(hidden[0, -1, :4], [0.862856, -0.923640, -1.806011, 1.557347])


def test_the_connector(case):
    layer_norm, config, params, given, _, _ = case
    media = given.media["image"]
    hidden = encode(params["vision"], media.values, media.segment_ids, media.positions, config=config.vision)
    vectors = connect(params["connector"], hidden)[0]
    first, last, second = {
        True: (
            [0.053972, 0.101047, 0.100533, 0.052455],
            [0.121720, 0.175996],
            [0.081760, 0.131536, 0.118716, 0.049382],
        ),
        False: (
            [0.060440, 0.106269, 0.101938, 0.049352],
            [0.139365, 0.190040],
            [0.092590, 0.140560, 0.121492, 0.044545],
        ),
    }[layer_norm]
    close(vectors[0, :4], first)
    close(vectors[3, :2], last)
    close(vectors[4, :4], second)


def test_logits_and_loss(case):
    layer_norm, config, params, given, loss, _ = case
    want = {
        True: [0.657819, -0.119652, -0.706398, -0.167153, 0.638533],
        False: [0.666330, -0.122025, -0.715873, -0.168627, 0.647409],
    }[layer_norm]
    close(logits_of(params, given, config)[0, -1, :5], want)
    close(loss, {True: 3.6539509, False: 3.6733971}[layer_norm])


GRADIENTS = {
    "vision/patch_embedding/weight": (0.56176300, 0.58209316),
    "vision/position_embedding/weight": (0.07658885, 0.09204007),
    "connector/linear_1/weight": (1.19851233, 1.30414529),
    "embed_tokens/weight": (2.20538751, 2.23036545),
}


def test_gradients(case):
    layer_norm, config, _, _, _, gradient = case
    flat = {path: leaf for (path, _), leaf in zip(leaves(param_table(config)), jax.tree.leaves(gradient), strict=True)}
    assert len(flat) == (64 if layer_norm else 62)
    for path, (with_norm, without) in GRADIENTS.items():
        assert float(jnp.linalg.norm(flat[path])) == pytest.approx(with_norm if layer_norm else without, rel=2e-6), path
    row = float(jnp.linalg.norm(flat["embed_tokens/weight"][IMAGE_ID]))
    assert row == pytest.approx(0.04288045 if layer_norm else 0.03975126, rel=2e-6), "from the tied head alone"


def places(rows, columns):
    at = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    return jnp.asarray(np.concatenate([at, np.broadcast_to([rows, columns], at.shape)], 1), jnp.int32)[None]


RAMP = np.arange(256.0)[:, None].astype(np.float32)
WAVE = np.sin(np.arange(256) / 7)[:, None].astype(np.float32)


@pytest.mark.parametrize(
    ("grid", "first"),
    [
        ((16, 16), [0, 1, 2, 3]),
        ((32, 32), [0, 0.25, 0.75, 1.25]),
        ((8, 8), [12.142858, 13.928572, 15.928573, 17.928570]),
        ((2, 188), [68.285706] * 4),
        ((5, 7), [23.346766, 25.425495, 27.752077, 30.005495]),
        ((1, 1), [127.500023]),
    ],
)
def test_positions_are_resized_with_antialiasing(grid, first):
    found = position_vectors(jnp.asarray(RAMP), places(*grid), 16)[0, :, 0]
    np.testing.assert_allclose(found[: len(first)], first, atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "total"),
    [((8, 8), 1.173684), ((2, 188), 4.447954), ((24, 16), 6.665451), ((18, 32), 9.404874), ((5, 7), 0.544628)],
)
def test_sums_of_resized_positions(grid, total):
    found = np.asarray(position_vectors(jnp.asarray(WAVE), places(*grid), 16)).astype(np.float64)
    assert found.sum() == pytest.approx(total, abs=5e-4)
