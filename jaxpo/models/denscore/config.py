"""Hyper-parameters of the two towers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class DenscoreConfig:
    """Shape of the model.

    Attributes:
      sample_size: side of the pictures, all of whose pixels the image tower reads at once.
      hidden_size: of the one hidden layer of either tower.
      projection_dim: of the space of both.
      vocab_size: ids of words; 0 fills up.
      max_length: words of a segment.

    Raises:
      ConfigError: lists every size below 1.
    """

    sample_size: int = 8
    in_channels: int = 3
    hidden_size: int = 64
    projection_dim: int = 32
    vocab_size: int = 64
    max_length: int = 16

    def __post_init__(self) -> None:
        sizes = ("sample_size", "in_channels", "hidden_size", "projection_dim", "vocab_size", "max_length")
        if problems := [f"denscore {name} must be at least 1." for name in sizes if getattr(self, name) < 1]:
            raise ConfigError(problems)
