"""Hyper-parameters of a SigLIP2 vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class SiglipConfig:
    """Shape of the tower; names are those of its config files.

    Attributes:
      patch_size: pixels along a patch's side, P.
      num_patches: entries of the position table, a square number: its grid is resized to each image's.
      initializer_range: standard deviation of initial matrices.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    patch_size: int = 16
    num_patches: int = 256
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
        yield from (f"vision {name} must be at least 1." for name in sizes if getattr(self, name) < 1)
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads:
            yield f"vision hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads."
        if self.grid**2 != self.num_patches:
            yield f"vision num_patches {self.num_patches} is no square number."

    @property
    def grid(self) -> int:
        """Rows, and columns, of the position table."""
        return round(self.num_patches**0.5)

    @property
    def patch_values(self) -> int:
        """Numbers that a patch is."""
        return self.patch_size**2 * self.num_channels

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads
