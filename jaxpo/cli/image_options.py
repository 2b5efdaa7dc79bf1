"""Options about images, which `generate`, `chat` and `serve` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError

_SIZES = (
    ("min_image_tokens", "vectors of an image in one piece, at least"),
    ("max_image_tokens", "at most: fewer are faster and see less"),
    ("min_tiles", "tiles that a large image is cut into, at least"),
    ("max_tiles", "at most; 1 = images are never cut"),
)


def add_image_options(parser: Parser) -> None:
    """What becomes of images."""
    group = parser.add_argument_group("images, of a model that sees")
    for name, meaning in _SIZES:
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=int, help=f"{meaning} (default as the model's files say)")


def viewer_for(model: Any, args: argparse.Namespace, **where: Any) -> Any:
    """How the model sees; None of one that reads text alone.

    Args:
      where: fields of `Viewer`: where files may lie.

    Raises:
      ConfigError: options that mean nothing to the model, or do not fit together.
    """
    import dataclasses

    from jaxpo.sampling.viewing import viewer_of

    viewer = viewer_of(model.config, model.tokenizer, **{name: getattr(args, name) for name, _ in _SIZES})
    return None if viewer is None else dataclasses.replace(viewer, **where)


def room_for(viewer: Any) -> dict[str, int]:
    """Options of an engine that encodes every piece of an image at once."""
    return {} if viewer is None else {"patches": viewer.longest}


def image_folder(path: Path | None) -> Path | None:
    """A folder that images lie in; ConfigError for one that is not there."""
    if path is not None and not path.is_dir():
        raise ConfigError(f"--image-root: there is no folder {path}.")
    return path
