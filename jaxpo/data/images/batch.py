"""What a step of a denoiser reads: images or pairs of images, their captions, and columns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.packing.batch import split_leading

CHOSEN, REJECTED = 0, 1
"""Places of the images of a pair; without a preference there is one image."""


@struct.dataclass
class ImageBatch:
    """N examples, of one image each or of the two of a pair, which share crop, mirroring, time and noise.

    A row is an example, and so is a block.

    Attributes:
      images: float32 `[N, K, H, W, C]` in [-1, 1], or latents; K is 1, or 2 with the chosen image first.
      tokens: int32 `[N, S, L]`: captions in S segments of L tokens, which the text tower reads each alone.
      text_mask: `[N, S, L]` True at tokens; where captions are states alone, `[N, 1, L]` at these.
      states, states_mask: float32 `[N, L, Dc]` in the place of what the text tower would give, and `[N, L]` where they
        are; None where captions are tokens alone.
      empty_states, empty_mask: `[N, L, Dc]` and `[N, L]` likewise, of the empty caption; None where no file has it.
      adapter_states, adapter_mask: `[N, M, C]` and `[N, M]` of a second text encoder, whose adapter the model has; None
        where it has none.
      columns: name -> `[N, ...]`: "rewards" `[N, 2]` in [0, 1] over the training set, "user_tokens" `[N, M, U]`,
        "weight" `[N]`, "label" `[N]`.
      example_id: `[N]` the example's number in its data set; -1 = no example here.
    """

    images: Float[Array, "N K H W C"]
    tokens: Int[Array, "N S L"]
    text_mask: Bool[Array, "N S L"]
    columns: dict[str, Any]
    example_id: Int[Array, "N"]
    states: Any = None
    states_mask: Any = None
    empty_states: Any = None
    empty_mask: Any = None
    adapter_states: Any = None
    adapter_mask: Any = None

    @property
    def rows(self) -> int:
        """N."""
        return self.images.shape[0]

    @property
    def blocks(self) -> int:
        """N."""
        return self.images.shape[0]

    @property
    def present(self) -> Bool[Array, "N"]:
        """`[N]` True where there is an example."""
        return self.example_id >= 0

    def split(self, parts: int) -> ImageBatch:
        """Stack `parts` microbatches on a new leading axis; microbatch i takes examples i, i + parts, ..."""
        if self.blocks % parts:
            raise ValueError(f"{self.blocks} examples cannot be split into {parts} microbatches")
        return jax.tree.map(lambda x: split_leading(x, self.blocks, parts), self)

    def tally(self) -> dict[str, Array]:
        """Tokens of captions, none of them trained on, and examples."""
        there = self.present[:, None, None] & self.text_mask
        return {"tokens": jnp.sum(there), "trained": jnp.zeros((), jnp.int32), "samples": jnp.sum(self.present)}
