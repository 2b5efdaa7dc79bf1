"""Hyper-parameters of a U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.text_adapter import TextAdapter
from jaxpo.errors import ConfigError
from jaxpo.models.caption.config import CaptionConfig


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the model; names are those of diffusers' config files where the concept is theirs.

    Attributes:
      sample_size: side of the images (or latents) that it was made for; others are read too.
      in_channels: of the images, in and out.
      block_out_channels: width of each level, the finest first; every further one has half the side.
      layers_per_block: residual blocks of a level on the way down; one more on the way up.
      cross_attention: whether a level has attention; the innermost block always has.
      cross_attention_dim: width of a text's states.
      attention_heads: number of heads at each level. (diffusers calls it `attention_head_dim`; it is no width there.)
      norm_num_groups: groups of each normalisation.
      use_linear_projection: how the maps around attention lie in files, as matrices or 1x1 convolutions.
      schedule: the noise that it was trained with, and what it predicts.
      user_channels: width of the vectors that describe a user; 0 = no attention to a user.
      user_scale: how much that attention counts, lambda.
      caption: the text tower that is trained along; None = the states of texts come with the data.
      text_adapter: what brings the states of a second text encoder, which come with the data, to the width of the first
        one's; they stand after these. None = there is no second one.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    sample_size: int = 64
    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    cross_attention_dim: int = 768
    attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    user_channels: int = 0
    user_scale: float = 1.0
    caption: CaptionConfig | None = None
    text_adapter: TextAdapter | None = None

    def __post_init__(self) -> None:
        for name in ("block_out_channels", "cross_attention", "attention_heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if problems := [*self._bad_sizes(), *self._bad_levels()]:
            raise ConfigError(problems)

    @property
    def context_channels(self) -> int:
        """Width of a text's states."""
        return self.cross_attention_dim

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.block_out_channels)

    @property
    def shrinks(self) -> int:
        """By what the side is divided at the last level."""
        return int(2 ** (self.levels - 1))

    def _bad_sizes(self) -> Iterator[str]:
        sizes = ("sample_size", "in_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups")
        yield from (f"{name} must be at least 1." for name in sizes if getattr(self, name) < 1)
        if not self.block_out_channels:
            yield "block_out_channels names no level."
        elif self.sample_size % self.shrinks:
            yield f"sample_size {self.sample_size} cannot be halved {self.levels - 1} times."
        if self.user_channels < 0:
            yield "user_channels must not be negative."
        if self.caption is not None and self.caption.hidden_size != self.cross_attention_dim:
            yield (
                f"cross_attention_dim {self.cross_attention_dim} is not the width of the text tower's states, "
                f"caption.hidden_size {self.caption.hidden_size}."
            )

    def _bad_levels(self) -> Iterator[str]:
        for name in ("cross_attention", "attention_heads"):
            if (n := len(getattr(self, name))) != self.levels:
                yield f"{name} has {n} entries, and block_out_channels {self.levels}."
        for i, (width, heads) in enumerate(zip(self.block_out_channels, self.attention_heads, strict=False)):
            if width < 1 or heads < 1:
                yield f"level {i}: its width {width} and its heads {heads} must be at least 1."
            elif width % heads:
                yield f"level {i}: its width {width} is not divisible by {heads} heads."
            if self.norm_num_groups > 0 and width % self.norm_num_groups:
                yield f"level {i}: its width {width} is not divisible by {self.norm_num_groups} groups."
        if self.block_out_channels and self.block_out_channels[0] % 2:
            yield f"level 0: its width {self.block_out_channels[0]} is odd; the time has pairs of a cosine and a sine."
