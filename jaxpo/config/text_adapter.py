"""Hyper-parameters of what brings a second text encoder's states to the width of the first one's."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class TextAdapter:
    """Shape of the maps that bring the states of a second text encoder, such as T5's, to the width of the first's.

    Attributes:
      channels: width of the second encoder's states.
      intermediate_size: width within each of the two layers, F.
      norm_eps: of their norms.

    Raises:
      ConfigError: lists every inconsistent field.

    Reference: Liu et al. 2025, arXiv:2410.11817, section 3.1; the widths within are ours.
    """

    channels: int = 4096
    intermediate_size: int = 4096
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = ("channels", "intermediate_size")
        if problems := [f"text_adapter {name} must be at least 1." for name in sizes if getattr(self, name) < 1]:
            raise ConfigError(problems)
