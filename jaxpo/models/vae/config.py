"""Hyper-parameters of a decoder of latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxpo.errors import ConfigError

NORM_EPS = 1e-6


@dataclass(frozen=True)
class VAEDecoderConfig:
    """Shape of the model; names are those of diffusers' config files where the concept is theirs.

    Attributes:
      latent_channels: of the latents.
      out_channels: of the pictures.
      block_out_channels: width of each level, the finest first; every further one has half the side.
      layers_per_block: of the encoder, residual blocks of a level; the decoder has one more.
      norm_num_groups: groups of each normalisation.
      scaling_factor, shift_factor: latents are `(z - shift) * scaling` of what is decoded.
      use_post_quant_conv: whether a map of each latent's channels comes first.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    latent_channels: int = 4
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        if problems := list(self._problems()):
            raise ConfigError(problems)

    @property
    def grows(self) -> int:
        """By what the sides of latents are multiplied."""
        return int(2 ** (len(self.block_out_channels) - 1))

    def _problems(self) -> Iterator[str]:
        sizes = ("latent_channels", "out_channels", "layers_per_block", "norm_num_groups")
        yield from (f"{name} must be at least 1." for name in sizes if getattr(self, name) < 1)
        if not self.block_out_channels:
            yield "block_out_channels names no level."
        for i, width in enumerate(self.block_out_channels):
            if width < 1 or (self.norm_num_groups > 0 and width % self.norm_num_groups):
                yield f"level {i}: its width {width} is not a multiple of {self.norm_num_groups} groups."
        if not self.scaling_factor > 0:
            yield f"scaling_factor {self.scaling_factor:g} must be above 0."
