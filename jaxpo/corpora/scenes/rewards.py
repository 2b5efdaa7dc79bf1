"""Rewards of pictures without a learned model: smooth functions of the pixels, larger is better.

All take `[N, size, size, 3]` in [-1, 1] and give `[N]` float32; written for jax, so that they have gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.corpora.scenes.scene import COLOURS

Images = Float[Array, "N H W 3"]
Rewards = Float[Array, "N"]


def brightness(images: Images) -> Rewards:
    """Mean of all pixels and channels, in [-1, 1]."""
    return jnp.mean(jnp.asarray(images, jnp.float32), axis=(1, 2, 3))


def colour(images: Images, name: str) -> Rewards:
    """How much of a colour there is: mean over pixels of <p, 2c - 1> / 3, p the picture, c the colour; in [-1, 1]."""
    direction = 2 * jnp.asarray(COLOURS[name], jnp.float32) - 1
    return jnp.mean(jnp.asarray(images, jnp.float32) @ direction, axis=(1, 2)) / 3


def position(images: Images, side: str = "left") -> Rewards:
    """How far left (or right) what is coloured lies: minus its mean column, the picture's half width being 1.

    A pixel weighs with its saturation, the difference of its largest and its smallest channel; a picture without
    colour has 0.
    """
    weight = jnp.ptp(jnp.asarray(images, jnp.float32), axis=-1)
    size = weight.shape[2]
    column = (jnp.arange(size) - (size - 1) / 2) / (size / 2)
    mean = jnp.sum(weight * column, axis=(1, 2)) / jnp.maximum(jnp.sum(weight, axis=(1, 2)), 1e-6)
    return {"left": -1.0, "right": 1.0}[side] * mean


def symmetry(images: Images) -> Rewards:
    """Minus the mean squared difference from the picture's own mirror image; 0 is the most."""
    x = jnp.asarray(images, jnp.float32)
    return -jnp.mean((x - x[:, :, ::-1]) ** 2, axis=(1, 2, 3))


REWARDS: dict[str, Callable[[Images], Rewards]] = {
    "brightness": brightness,
    "darkness": lambda images: -brightness(images),
    "left": position,
    "right": lambda images: position(images, "right"),
    "symmetry": symmetry,
    **{name: lambda images, name=name: colour(images, name) for name in COLOURS},  # type: ignore[misc]
}
"""By name; a colour's name is the reward of that colour."""
