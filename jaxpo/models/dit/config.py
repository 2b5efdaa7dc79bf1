"""Hyper-parameters of a diffusion transformer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.text_adapter import TextAdapter
from jaxpo.errors import ConfigError
from jaxpo.models.caption.config import CaptionConfig

NORM_EPS = 1e-6
"""Of the norms, which have no parameters."""


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the model; names are those of diffusers' config files where the concept is theirs.

    Attributes:
      sample_size: side of the images (or latents) that positions are counted for; others are read too.
      patch_size: side of what becomes a token, P.
      out_channels: those of the images, or twice as many: then the second half is a variance, which is not returned.
      attention_head_dim: width of one head; the model's width D is `num_attention_heads` of them.
      caption_channels: width of a text's states.
      interpolation_scale: what positions are divided by.
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
    patch_size: int = 2
    in_channels: int = 4
    out_channels: int = 8
    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    caption_channels: int = 4096
    interpolation_scale: float = 1.0
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    user_channels: int = 0
    user_scale: float = 1.0
    caption: CaptionConfig | None = None
    text_adapter: TextAdapter | None = None

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    @property
    def context_channels(self) -> int:
        """Width of a text's states."""
        return self.caption_channels

    @property
    def width(self) -> int:
        """Of the residual stream, D."""
        return self.num_attention_heads * self.attention_head_dim

    def _problems(self) -> Iterator[str]:
        sizes = (
            *("sample_size", "patch_size", "in_channels", "num_layers", "num_attention_heads"),
            *("attention_head_dim", "caption_channels"),
        )
        yield from (f"{name} must be at least 1." for name in sizes if getattr(self, name) < 1)
        if self.patch_size > 0 and self.sample_size % self.patch_size:
            yield f"sample_size {self.sample_size} is no whole number of patches of {self.patch_size}."
        if self.width % 4:
            yield f"the width {self.width} (heads x attention_head_dim) is not divisible by 4, as positions need."
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            yield f"out_channels {self.out_channels} is neither in_channels {self.in_channels} nor twice that."
        if self.interpolation_scale <= 0:
            yield "interpolation_scale must be above 0."
        if self.user_channels < 0:
            yield "user_channels must not be negative."
        if self.caption is not None and self.caption.hidden_size != self.caption_channels:
            yield (
                f"caption_channels {self.caption_channels} is not the width of the text tower's states, "
                f"caption.hidden_size {self.caption.hidden_size}."
            )
