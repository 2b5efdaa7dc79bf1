"""The towers as pure functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpo.models.siglip.forward import affine

Tree = Any


def image_features(params: Tree, images: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
    """`W_2 gelu(W_1 x)` of all pixels, float32; not of unit length."""
    tower = params["image"]
    pixels = images.astype(jnp.float32).reshape(len(images), -1)
    return affine(tower["fc2"], jax.nn.gelu(affine(tower["fc1"], pixels), approximate=True))


def text_features(params: Tree, tokens: Int[Array, "B S L"], mask: Bool[Array, "B S L"]) -> Float[Array, "B S D"]:
    """`W_2 gelu(W_1 mean of the words' vectors)` of every segment, float32; not of unit length."""
    tower = params["text"]
    words = jnp.where(mask[..., None], tower["embedding"]["weight"][tokens], 0.0)
    mean = jnp.sum(words, axis=2) / jnp.maximum(jnp.sum(mask, axis=2), 1)[..., None]
    return affine(tower["fc2"], jax.nn.gelu(affine(tower["fc1"], mean), approximate=True))
