"""What a preference model sees of an image: a part of it, at the size that it reads (LongAlign, arXiv:2410.11817)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def view(
    images: Float[Array, "B H W C"], places: Float[Array, "B 2"], share: float, size: int
) -> Float[Array, "B size size C"]:
    """A square of each image, resized; the gradient is that of the pixels.

        side = round(share min(H, W));   top = floor(u (H - side + 1)),  left = floor(v (W - side + 1))

    Args:
      places: `[B, 2]` u, v in [0, 1).
      share: of the shorter side, 504 / 512 in the authors' code; 1 = all of it.
      size: of the result, 224 there; bilinear, with antialiasing where it is smaller. Equal sizes leave pixels as they
        are.

    Reference: Liu et al. 2025, arXiv:2410.11817, the authors' code, unet_reward.py.
    """
    height, width, channels = images.shape[1:]
    side = max(1, round(share * min(height, width)))

    def one(image: Array, place: Array) -> Array:
        top, left = ((u * (n - side + 1)).astype(jnp.int32) for u, n in zip(place, (height, width), strict=True))
        return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, channels))

    cut = images if side == height == width else jax.vmap(one)(images, places)
    return cut if side == size else jax.image.resize(cut, (len(images), size, size, channels), "linear")
