"""Hyper-parameters of an LFM2-VL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.siglip.config import SiglipConfig

IMAGE, FEATURES = "image", "image_features"
"""The kinds of media that the family reads: patches, or what its tower made of them."""
FACTOR = 2
"""Patches along the side of what the connector makes one vector of; packed grids of media are laid out for it."""


@dataclass(frozen=True)
class LFM2VLConfig:
    """Shape of the model; names are those of its config files.

    Attributes:
      text: the language model.
      vision: the tower.
      image_token_id: the id whose embeddings are replaced. No constant: it differs between vocabularies.
      projector_hidden_size: width inside the connector.
      projector_bias: whether its two linear maps add something.
      projector_use_layernorm: whether its input is normalised first.
      image_mean, image_std: of each channel, after division by 255: how bytes become what the tower reads.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    text: LFM2Config = field(default_factory=LFM2Config)
    vision: SiglipConfig = field(default_factory=SiglipConfig)
    image_token_id: int = 396
    projector_hidden_size: int = 2560
    projector_bias: bool = True
    projector_use_layernorm: bool = True
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        if not 0 <= self.image_token_id < self.text.vocab_size:
            yield f"image_token_id {self.image_token_id} is not in the vocabulary of {self.text.vocab_size}."
        if self.projector_hidden_size < 1:
            yield "projector_hidden_size must be at least 1."
        channels = self.vision.num_channels
        if len(self.image_mean) != channels or len(self.image_std) != channels or min(self.image_std) <= 0:
            yield f"image_mean and image_std must have {channels} numbers each, those of image_std above 0."

    @property
    def model_type(self) -> str:
        """As config.json names it."""
        return "lfm2_vl"

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return self.text.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the language model."""
        return self.text.num_hidden_layers

    @property
    def bos_token_id(self) -> int:
        """Of the language model."""
        return self.text.bos_token_id

    @property
    def eos_token_id(self) -> int:
        """Of the language model."""
        return self.text.eos_token_id

    @property
    def pad_token_id(self) -> int:
        """Of the language model."""
        return self.text.pad_token_id
