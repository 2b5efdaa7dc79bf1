"""LFM2-VL as a pure function: patches through the tower and the connector, vectors in place of embeddings, LFM2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxpo.models.language import Inputs
from jaxpo.models.lfm2.forward import backbone, embed
from jaxpo.models.lfm2_vl.config import FACTOR, FEATURES, IMAGE, LFM2VLConfig
from jaxpo.models.siglip.forward import affine, encode, layer_norm
from jaxpo.ops.dropout import dropout

Tree = Any
NORM_EPS = 1e-5
"""Of the connector's norm."""


def normalise(values: Array, config: LFM2VLConfig, dtype: Any) -> Array:
    """`(x / 255 - mean) / std` of bytes, by channel; what is no integer is taken as normalised."""
    if not jnp.issubdtype(values.dtype, jnp.integer):
        return values.astype(dtype)
    repeats = values.shape[-1] // config.vision.num_channels
    moments = jnp.asarray((config.image_mean, config.image_std), jnp.float32) * 255
    mean, std = jnp.tile(moments, repeats)
    return ((values.astype(jnp.float32) - mean) / std).astype(dtype)


def connect(params: Tree, hidden: Float[Array, "Q P D"]) -> Float[Array, "Q P/4 d"]:
    """Vectors of the language model, each from four patches that stand together.

    y = linear_2(gelu(linear_1(LN [h_4i, h_4i+1, h_4i+2, h_4i+3])))      gelu by erf

    The four are the patches (2I, 2J), (2I, 2J + 1), (2I + 1, 2J), (2I + 1, 2J + 1) of an image.
    """
    rows, patches, width = hidden.shape
    x = hidden.reshape(rows, patches // FACTOR**2, FACTOR**2 * width)
    x = layer_norm(params["layer_norm"], x, NORM_EPS) if "layer_norm" in params else x
    return affine(params["linear_2"], jax.nn.gelu(affine(params["linear_1"], x), approximate=False))


def image_vectors(
    params: Tree, media: Any, *, config: LFM2VLConfig, dtype: Any, remat: bool, attention: str | None
) -> Float[Array, "Q P/4 d"]:
    """What the embeddings of a packed grid's images become; see `jaxpo.data.packing.batch.Media`."""
    hidden = image_features(params, media, config=config, dtype=dtype, remat=remat, attention=attention)
    return connect(params["connector"], hidden)


def image_features(
    params: Tree, media: Any, *, config: LFM2VLConfig, dtype: Any, remat: bool, attention: str | None
) -> Float[Array, "Q P D"]:
    """What the tower makes of a packed grid's patches."""
    values = normalise(media.values, config, dtype)
    return encode(
        params["vision"],
        values,
        media.segment_ids,
        media.positions,
        config=config.vision,
        remat=remat,
        implementation=attention,
    )


def placed(
    x: Float[Array, "R S D"], vectors: Float[Array, "Q V D"], places: Int[Array, "R S"] | None, blocks: int
) -> Float[Array, "R S D"]:
    """Embeddings with the vectors where `places`, counted within each of the blocks, says so; -1 = the embedding."""
    if places is None:
        raise ValueError("a batch with media says in `places` where their vectors belong")
    flat = vectors.reshape(blocks, -1, vectors.shape[-1])
    index = places.reshape(blocks, -1)
    picked = jnp.take_along_axis(flat, jnp.maximum(index, 0)[..., None], axis=1).reshape(x.shape)
    return jnp.where((places >= 0)[..., None], picked.astype(x.dtype), x)


def forward(
    params: Tree,
    inputs: Inputs,
    *,
    config: LFM2VLConfig,
    dtype: Any = jnp.float32,
    embedding_dropout: float = 0.0,
    row_keys: Key[Array, "R"] | None = None,
    remat: str = "none",
    attention: str | None = None,
    **options: Any,
) -> tuple[Float[Array, "R S D"], dict[str, Any]]:
    """`backbone(dropout(embed(tokens) or connect(encode(patches))))`; options are those of LFM2's backbone.

    Features stand for `encode(patches)`. Without media in the batch it is LFM2 of the text. Any `remat` but "none"
    recomputes each layer of the tower, too.
    """
    x = embed(params, inputs.tokens, dtype)
    if IMAGE in inputs.media:
        vectors = image_vectors(
            params, inputs.media[IMAGE], config=config, dtype=dtype, remat=remat != "none", attention=attention
        )
        x = placed(x, vectors, inputs.places, inputs.blocks)
    if FEATURES in inputs.media:
        vectors = connect(params["connector"], inputs.media[FEATURES].values.astype(dtype))
        x = placed(x, vectors, inputs.places, inputs.blocks)
    x = x if row_keys is None else dropout(x, row_keys, embedding_dropout)
    return backbone(
        params,
        x,
        inputs.segment_ids,
        inputs.positions,
        config=config.text,
        causal=config.text.causal,
        key_ids=inputs.key_ids,
        continues=inputs.continues,
        max_segment=inputs.max_segment,
        remat=remat,
        attention=attention,
        **options,
    )
