"""Clips made worse: frames that are hidden, and an order in time that is none (RRPO, arXiv 2504.12083)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxpo.data.media.decode import ImageLimits, image_size, place_or_bytes
from jaxpo.data.rows.clips import FRAME, OF, is_frame, shown

GREY = 127


def perturbed(
    pictures: Sequence[Any], rng: np.random.Generator, *, most: int, share: float, shuffle: bool, root: Path
) -> list[Any]:
    """A row's images with each clip made worse: a share of its frames grey, in another order if asked.

    Where the share is not 0 at least one frame is grey; frames that are not shown stay out of it. Images that are no
    frames count as one clip.

    Args:
      most: frames of a clip that are shown, see `jaxpo.data.rows.clips.shown`.
      shuffle: the order of a clip of several frames is another one afterwards.
      root: folder that files must lie in; what is shown is named from there on.

    Raises:
      BadImage: an image whose header cannot be read, or that lies elsewhere.
    """
    found = list(pictures)
    for clip in _clips(pictures, shown(pictures, most)):
        drawn = _worse([pictures[i] for i in clip], rng, share, shuffle, root)
        for i, content in zip(clip, drawn, strict=True):
            place = {key: pictures[i][key] for key in (FRAME, OF)} if is_frame(pictures[i]) else {}
            found[i] = content | place
    return found


def _clips(pictures: Sequence[Any], seen: Sequence[bool]) -> Iterator[list[int]]:
    """Numbers of the images of each clip that are shown."""
    begins = [i for i, each in enumerate(pictures) if is_frame(each) and each[FRAME] == 0]
    yield from ([i for i in range(b, b + pictures[b][OF]) if seen[i]] for b in begins)
    if others := [i for i, each in enumerate(pictures) if not is_frame(each)]:
        yield others


def _worse(
    frames: Sequence[Any], rng: np.random.Generator, share: float, shuffle: bool, root: Path
) -> list[dict[str, Any]]:
    count = min(len(frames), max(1, round(share * len(frames)))) if share else 0
    hidden = set(rng.choice(len(frames), size=count, replace=False).tolist())
    limits = ImageLimits(root)
    sizes = [image_size(frame, limits) for frame in frames]
    found = [_grey(*sizes[i]) if i in hidden else _located(frame, root) for i, frame in enumerate(frames)]
    order, same = np.arange(len(found)), np.arange(len(found))
    while shuffle and len(found) > 1 and np.array_equal(order, same):
        order = rng.permutation(len(found))
    return [found[i] for i in order]


def _located(frame: Any, root: Path) -> dict[str, Any]:
    """A frame by itself: its bytes, or where its file lies whatever the current folder is."""
    payload = place_or_bytes(frame)
    return {"bytes": payload} if isinstance(payload, bytes) else {"path": str((root / payload).resolve())}


def _grey(height: int, width: int) -> dict[str, Any]:
    """A PNG of which every value is 127."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (GREY, GREY, GREY)).save(out, "PNG")
    return {"bytes": out.getvalue()}
