"""How images become patches, and which are let in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from jaxpo.config.places import OtherFile
from jaxpo.errors import ConfigError

FIXED = {"do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
"""Switches that every LFM2-VL has in this position; another value is another model."""
BILINEAR = 2
"""Pillow's number for the filter."""


@dataclass(frozen=True)
class ImageSettings:
    """Sizes of tiles and of what is made of them (transformers' Lfm2VlImageProcessor; its names).

    Attributes:
      encoder_patch_size: pixels along a patch's side, P.
      downsample_factor: patches along the side of what the connector makes one vector of, f.
      tile_size: pixels along a tile's side.
      do_image_splitting: whether a large image is cut into tiles.
      min_tiles, max_tiles: how many.
      use_thumbnail: whether the whole image follows its tiles, small.
      min_image_tokens, max_image_tokens: vectors of an image that is not cut, and of a thumbnail.
      max_pixels_tolerance: an image is large beyond so many times `max_image_tokens`.
      image_mean, image_std: of each channel, after division by 255.
    """

    encoder_patch_size: int = 16
    downsample_factor: int = 2
    tile_size: int = 512
    do_image_splitting: bool = True
    min_tiles: int = 2
    max_tiles: int = 10
    use_thumbnail: bool = True
    min_image_tokens: int = 64
    max_image_tokens: int = 256
    max_pixels_tolerance: float = 2.0
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if problems := list(self.problems()):
            raise ConfigError(problems)

    def problems(self) -> Iterator[str]:
        """What is wrong, a sentence each."""
        for name in ("encoder_patch_size", "downsample_factor", "tile_size", "min_tiles", "min_image_tokens"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1; it is {getattr(self, name)}."
                return
        if self.max_tiles < self.min_tiles:
            yield f"max_tiles is {self.max_tiles}, less than min_tiles, {self.min_tiles}."
        if self.max_image_tokens < self.min_image_tokens:
            yield f"max_image_tokens is {self.max_image_tokens}, less than min_image_tokens, {self.min_image_tokens}."
        if self.tile_size % self.unit:
            yield f"tile_size must be a multiple of {self.unit} (patch size x downsample_factor), not {self.tile_size}."
        if self.max_pixels_tolerance <= 0:
            yield f"max_pixels_tolerance must be above 0; it is {self.max_pixels_tolerance}."
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            yield "image_mean and image_std must have three numbers each, those of image_std above 0."

    @property
    def unit(self) -> int:
        """Pixels along the side of what becomes one vector, P f."""
        return self.encoder_patch_size * self.downsample_factor

    def to_json(self) -> dict[str, Any]:
        """As an image processor's file says it."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            "image_processor_type": "Lfm2VlImageProcessorFast",
            "processor_class": "Lfm2VlProcessor",
            **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()},
            **{name: value for name, value in FIXED.items() if name != "do_convert_rgb"},
            "rescale_factor": 1 / 255,
            "resample": BILINEAR,
            "do_pad": True,
            "do_resize": True,
        }


@dataclass(frozen=True)
class Images:
    """The images of rows, for a model that sees.

    Attributes:
      root: folder that image files lie in, links followed; relative paths begin there. None = the folder of the file
        that names them. "/" lets files lie anywhere.
      max_pixels: of one image, by its header.
      on_bad_image: rows with an image that cannot be used are an "error", or "skip" counts them and leaves them out: by
        the header when rows are tokenised (listed by file and row), by its pixels when a batch is made; of both
        together at most `max_bad_rows`.
      sizes: of tiles and of what is made of them; None = as the model's processor files say, else LFM2-VL's.
      frames: of a clip that are shown, evenly spaced; the others of a longer one are left out, and counted.
      cached: what the encoder makes of each image is computed once, kept beside the run's data, and read in every step;
        for a stage that neither trains nor adapts the encoder.
    """

    root: OtherFile | None = None
    max_pixels: int = 64_000_000
    on_bad_image: Literal["error", "skip"] = "error"
    sizes: ImageSettings | None = None
    frames: int = 16
    cached: bool = False
