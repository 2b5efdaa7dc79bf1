"""Images with captions, ready to be trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxpo.config import Data
from jaxpo.config.image_data import ImageData
from jaxpo.data.images.store import ImageStore

USER_TOKENS = "user_tokens"


@dataclass(frozen=True)
class ImageShape:
    """What the model reads.

    Attributes:
      size: pixels (or latent cells) along both sides.
      channels: of images or latents.
      states: width of text states.
      adapter: width of a second text encoder's states; 0 = the model reads none.
      words: tokens that captions are filled up to, as many as the text tower has positions, since it reads those too;
        0 = as many as `data.max_length`.
    """

    size: int
    channels: int
    states: int
    words: int = 0
    adapter: int = 0


@dataclass(frozen=True)
class ImageDataset:
    """Images with captions, or pairs of them.

    Attributes:
      columns: names of `ImageBatch.columns`, "user" standing for "user_tokens".
      reward_range: least and greatest reward of the training rows; None where none was read.
      users: name -> its number in `user_tokens`, float32 `[users, M, U]`.
      empty: float16 `[L, states]` of the empty caption; None where captions are tokens, or no file has it.
      counts: read, kept, and what was left out or cut, by reason.
      hash: of the files' contents, tokenizer and settings.
    """

    store: ImageStore
    data: Data
    images: ImageData
    shape: ImageShape
    columns: tuple[str, ...]
    counts: dict[str, int]
    files: tuple[str, ...]
    hash: str
    reward_range: tuple[float, float] | None = None
    user_tokens: np.ndarray | None = field(default=None, compare=False)
    empty: np.ndarray | None = field(default=None, compare=False)
    shares: tuple[()] = ()

    def __len__(self) -> int:
        return len(self.store)

    @property
    def tokens(self) -> int:
        """Nothing is counted by tokens."""
        return 0

    @property
    def pairs(self) -> bool:
        """Whether its examples are pairs."""
        return bool(self.store.meta["pairs"])

    @property
    def states(self) -> int:
        """Longest text states of the files; 0 where captions are tokens."""
        return int(self.store.meta["states"])

    @property
    def words(self) -> bool:
        """Whether captions are there as tokens."""
        return bool(self.store.meta["words"])

    @property
    def more_states(self) -> int:
        """Longest states of a second text encoder."""
        return int(self.store.meta["more_states"])
