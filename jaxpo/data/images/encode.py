"""Images to latents once, so that no encoder runs in training: the rows of a data set of images as one of latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from jaxpo.config.image_data import ImageData
from jaxpo.data.images.folders import folder_items, is_image_folder
from jaxpo.data.images.formats import COMMON, FORMATS, TIE, UNLABELLED, Item, format_of
from jaxpo.data.images.pixels import arrays_of, finished
from jaxpo.data.rows.formats import read_rows

CENTRE = (0.5, 0.5)
LEFT_OUT = {TIE: "ties", UNLABELLED: "pairs without a label"}
LATENTS = ("latents", "latent_pairs")


class Encoder(Protocol):
    """What makes latents of images, and states of captions.

    Attributes:
      scale: what its latents are multiplied with.
    """

    @property
    def scale(self) -> float: ...

    def latents(self, images: np.ndarray) -> np.ndarray:
        """float32 `[B, H, W, 3]` in [-1, 1] -> `[B, C, h, w]`, multiplied with `scale`."""
        ...

    def states(self, captions: Sequence[str]) -> np.ndarray | None:
        """`[B, L, D]`; None where captions are kept as they are."""
        ...


def items_of(files: Sequence[str], images: ImageData) -> Iterator[Item]:
    """The examples of files and folders, whatever their forms."""
    for name in files:
        if is_image_folder(Path(name)):
            yield from folder_items(Path(name))
            continue
        for row in read_rows([name]):
            form = format_of(row)
            if form in LATENTS:
                raise row.error("holds latents already.", remedy="Name the file in data.train as it is.")
            yield from FORMATS[form].read(row, images)


def encoded_rows(
    files: Sequence[str],
    encoder: Encoder,
    *,
    size: int,
    batch: int = 8,
    lists: Literal["extremes", "all"] = "extremes",
    say: Callable[[str], None] = print,
) -> Iterator[dict[str, Any]]:
    """Rows of the form `latents` or `latent_pairs`; pairs without a winner are left out and counted.

    Args:
      size: pixels along both sides, cut at the centre.
      batch: examples that are encoded together.
      lists: pairs of a scored list, as `ImageData.lists`.

    Raises:
      DataError: an image that cannot be read, rows that hold latents already, or other columns than the first row's;
        names file and row.
    """
    waiting: list[Item] = []
    left_out = Counter[str]()
    first: Item | None = None
    for item in items_of(files, ImageData(lists=lists)):
        if why := next((told for name, told in LEFT_OUT.items() if item.columns.get(name)), None):
            left_out[why] += 1
            continue
        first = first or item
        _check_alike(item, first)
        waiting.append(item)
        if len(waiting) == batch:
            yield from _encoded(waiting, encoder, size)
            waiting = []
    if waiting:
        yield from _encoded(waiting, encoder, size)
    for told, number in left_out.items():
        say(f"{number} {told} are left out")


def _check_alike(item: Item, first: Item) -> None:
    """A file has one form, and every row of it the same columns."""
    if len(item.images) != len(first.images):
        raise item.error("pairs and single images lie in the same files.")
    own, there = (", ".join(sorted(_beside(x))) or "none" for x in (item, first))
    if own != there:
        what = f"its columns beside images and caption are {own}, and those of the first row, of {first.file}, {there}."
        raise item.error(what, remedy="Give all rows the same columns, or encode them into files of their own.")


def _encoded(items: Sequence[Item], encoder: Encoder, size: int) -> Iterator[dict[str, Any]]:
    pixels = np.stack([finished(arrays_of(item, size, 3), size, CENTRE, False) for item in items])
    found = encoder.latents(pixels.reshape(-1, *pixels.shape[2:])).astype(np.float16)
    latents = found.reshape(len(items), -1, *found.shape[1:])
    states = encoder.states([item.caption or "" for item in items])
    names = ("latent",) if latents.shape[1] == 1 else ("latent_w", "latent_l")
    for i, item in enumerate(items):
        row = {name: latents[i, k].astype(np.float32).tolist() for k, name in enumerate(names)}
        yield {**row, **_beside(item), **_text(item, None if states is None else states[i]), "scale": encoder.scale}


def _beside(item: Item) -> Mapping[str, Any]:
    found = {name: item.columns[name] for name in COMMON if name in item.columns}
    if "rewards" in item.columns:
        found |= dict(zip(("score_0", "score_1"), item.columns["rewards"], strict=True))
    return found


def _text(item: Item, states: np.ndarray | None) -> Mapping[str, Any]:
    return {"caption": item.caption} | ({} if states is None else {"states": states.astype(np.float32).tolist()})
