"""Values and gradients against transformers' LFM2-VL: tiny random models, several images, odd grids, packed rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from jaxpo.data.packing.batch import Media  # noqa: E402
from jaxpo.models.language import Inputs  # noqa: E402
from jaxpo.models.lfm2.config import LFM2Config  # noqa: E402
from jaxpo.models.lfm2_vl.config import LFM2VLConfig  # noqa: E402
from jaxpo.models.lfm2_vl.forward import forward  # noqa: E402
from jaxpo.models.lfm2_vl.table import param_table  # noqa: E402
from jaxpo.models.siglip.config import SiglipConfig  # noqa: E402
from jaxpo.models.spec import leaves, map_table  # noqa: E402

IMAGE = 49
GRIDS = ((4, 6), (2, 10), (8, 2))
"""Patches of the images; the first stands in row 0, the others in row 1."""
ROWS = ((1, 5, *[IMAGE] * 6, 7, 8, 9), (1, *[IMAGE] * 5, 4, *[IMAGE] * 4, 6, 3))
MAX_PATCHES = 24


def theirs(layer_norm):
    torch.manual_seed(0)
    text = transformers.Lfm2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention", "conv"],
        block_auto_adjust_ff_dim=False,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    vision = transformers.Siglip2VisionConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=2,
        num_patches=16,
        vision_use_head=False,
    )
    config = transformers.Lfm2VlConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=IMAGE,
        projector_hidden_size=10,
        projector_use_layernorm=layer_norm,
    )
    model = transformers.Lfm2VlForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ours(layer_norm):
    text = LFM2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention", "conv"),
    )
    vision = SiglipConfig(
        hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, patch_size=2, num_patches=16
    )
    return LFM2VLConfig(text, vision, IMAGE, projector_hidden_size=10, projector_use_layernorm=layer_norm)


def patches():
    """Row-major patches `[n, 12]` of every image."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((rows * columns, 12)).astype(np.float32) for rows, columns in GRIDS]


def padded():
    """As transformers takes them."""
    values = np.zeros((len(GRIDS), MAX_PATCHES, 12), np.float32)
    mask = np.zeros((len(GRIDS), MAX_PATCHES), np.int64)
    for i, image in enumerate(patches()):
        values[i, : len(image)], mask[i, : len(image)] = image, 1
    shapes = torch.tensor(GRIDS)
    return {"pixel_values": torch.tensor(values), "spatial_shapes": shapes, "pixel_attention_mask": torch.tensor(mask)}


def packed():
    """As jaxpo takes them: one row, the four patches of a vector together."""
    values, positions, segments = [], [], []
    for number, (image, (rows, columns)) in enumerate(zip(patches(), GRIDS, strict=True), 1):
        for i in range(rows // 2):
            for j in range(columns // 2):
                for r, c in ((2 * i, 2 * j), (2 * i, 2 * j + 1), (2 * i + 1, 2 * j), (2 * i + 1, 2 * j + 1)):
                    values.append(image[r * columns + c])
                    positions.append((r, c, rows, columns))
                    segments.append(number)
    as_row = [np.asarray(values)[None], np.asarray(segments, np.int32)[None], np.asarray(positions, np.int32)[None]]
    return Media(*map(jnp.asarray, as_row))


def inputs():
    """Both texts in one row, each a segment of its own."""
    tokens = np.concatenate(ROWS)[None].astype(np.int32)
    vector = tokens == IMAGE
    places = np.where(vector, np.cumsum(vector) - 1, -1).astype(np.int32)
    segments = np.repeat([1, 2], [len(row) for row in ROWS])[None].astype(np.int32)
    positions = np.concatenate([np.arange(len(row)) for row in ROWS])[None].astype(np.int32)
    where = map(jnp.asarray, (tokens, segments, positions))
    return Inputs(*where, media={"image": packed()}, places=jnp.asarray(places))


def error(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


@pytest.mark.parametrize("layer_norm", [True, False])
def test_logits_and_every_gradient(layer_norm):
    model, config = theirs(layer_norm), ours(layer_norm)
    state = dict(model.named_parameters())

    def loaded(param):
        return jnp.asarray(param.layout.from_disk(state[param.hf].detach().numpy(), param.shape))

    table = param_table(config)
    params = map_table(loaded, table)
    assert {param.hf for _, param in leaves(table)} == set(state)

    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    logits = model(input_ids=ids, attention_mask=mask, **padded()).logits
    want = torch.cat([logits[i, : len(row)] for i, row in enumerate(ROWS)])
    cotangent = np.random.default_rng(2).standard_normal(want.shape).astype(np.float32)
    (want * torch.tensor(cotangent)).sum().backward()

    def value(params):
        hidden, _ = forward(params, inputs(), config=config)
        found = (hidden @ params["embed_tokens"]["weight"].T)[0]
        return jnp.sum(found * cotangent), found

    with jax.default_matmul_precision("highest"):
        gradient, found = jax.jit(jax.grad(value, has_aux=True))(params)
    assert error(found, want.detach().numpy()) < 1e-5
    for (path, param), leaf in zip(leaves(table), jax.tree.leaves(gradient), strict=True):
        theirs_here = param.layout.from_disk(state[param.hf].grad.numpy(), param.shape)
        if path.endswith("self_attn/k_proj/bias"):
            # The softmax does not see it: both are rounding.
            assert np.abs(np.asarray(leaf)).max() < 1e-4
            continue
        assert error(leaf, theirs_here) < 1e-4, path
