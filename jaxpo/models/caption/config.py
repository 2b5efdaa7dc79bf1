"""Hyper-parameters of the text tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxpo.errors import ConfigError

EMPTY_ID = 0
"""The id that fills a caption up; one of these alone is the empty caption, the condition that guidance leaves."""


@dataclass(frozen=True)
class CaptionConfig:
    """Shape of the tower.

    Attributes:
      vocab_size: ids of words; 0 fills up.
      hidden_size: width of the states, which is that of the denoiser's context.
      max_length: tokens of the longest caption, for each of which there is a position.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    vocab_size: int = 64
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 1
    num_attention_heads: int = 4
    max_length: int = 16
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_length")
        yield from (f"caption {name} must be at least 1." for name in sizes if getattr(self, name) < 1)
        if self.num_hidden_layers < 0:
            yield "caption num_hidden_layers must not be negative."
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            yield f"caption hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads."
