"""Images to latents once, so that no encoder runs in training: the rows of a data set of images as one of latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from jaxpo.config.image_data import ImageData
from jaxpo.data.images.folders import folder_items, is_image_folder
from jaxpo.data.images.formats import COMMON, MORE_STATES, STATES, TIE, UNLABELLED, Item, format_of, items_of_row
from jaxpo.data.images.pixels import arrays_of, finished
from jaxpo.data.rows.formats import read_rows

CENTRE = (0.5, 0.5)
LEFT_OUT = {TIE: "ties", UNLABELLED: "pairs without a label"}
LATENTS = ("latents", "latent_pairs")
NAMES = ((), ("latent",), ("latent_w", "latent_l"))
"""Columns of the latents, by how many images an example has."""


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

    def more_states(self, captions: Sequence[str]) -> Sequence[np.ndarray] | None:
        """`[L, C]` of each caption by a second text encoder; None where there is none."""
        ...


def items_of(files: Sequence[str], images: ImageData) -> Iterator[Item]:
    """The examples of files and folders, whatever their forms."""
    for name in files:
        if is_image_folder(Path(name)):
            yield from folder_items(Path(name))
            continue
        for row in read_rows([name]):
            if format_of(row) in LATENTS:
                raise row.error("holds latents already.", remedy="Name the file in data.train as it is.")
            yield from items_of_row(row, images)


def encoded_rows(
    files: Sequence[str],
    encoder: Encoder,
    *,
    size: int,
    batch: int = 8,
    lists: Literal["extremes", "all"] = "extremes",
    say: Callable[[str], None] = print,
) -> Iterator[dict[str, Any]]:
    """Rows of the form `latents`, `latent_pairs` or `captions`; pairs without a winner are left out and counted.

    Args:
      size: pixels along both sides, cut at the centre.
      batch: examples that are encoded together.
      lists: pairs of a scored list, as `ImageData.lists`.

    Raises:
      DataError: an image that cannot be read, rows that hold latents or states already, or other columns than the
        first row's; names file and row.
    """
    waiting: list[Item] = []
    left_out = Counter[str]()
    first: Item | None = None
    for item in items_of(files, ImageData(lists=lists)):
        if why := next((told for name, told in LEFT_OUT.items() if item.columns.get(name)), None):
            left_out[why] += 1
            continue
        if first is None:
            first = item
            if not item.images:
                say("the rows are captions alone: their states are written, and no latents")
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
    if item.caption is None:
        remedy = "Give its caption, or name the file in data.train as it is."
        raise item.error("has states of a text already, and no caption to encode.", field=STATES, remedy=remedy)
    if len(item.images) != len(first.images):
        raise item.error("pairs, single images and captions alone lie in the same files.")
    own, there = (", ".join(sorted(_beside(x))) or "none" for x in (item, first))
    if own != there:
        what = f"its columns beside images and caption are {own}, and those of the first row, of {first.file}, {there}."
        raise item.error(what, remedy="Give all rows the same columns, or encode them into files of their own.")


def _encoded(items: Sequence[Item], encoder: Encoder, size: int) -> Iterator[dict[str, Any]]:
    captions = [item.caption or "" for item in items]
    states, more = encoder.states(captions), encoder.more_states(captions)
    names = NAMES[len(items[0].images)]
    if not names and states is None:
        remedy = "Ask for states of captions, too: --states."
        raise items[0].error("is a caption alone, and images are to be encoded.", remedy=remedy)
    latents = _latents(items, encoder, size) if names else None
    for i, item in enumerate(items):
        row: dict[str, Any] = {}
        if latents is not None:
            row = {name: latents[i, k].astype(np.float32).tolist() for k, name in enumerate(names)}
            row["scale"] = encoder.scale
        yield {**row, **_beside(item), **_text(item, *(None if x is None else x[i] for x in (states, more)))}


def _latents(items: Sequence[Item], encoder: Encoder, size: int) -> np.ndarray:
    """float16 `[N, K, C, h, w]`."""
    pixels = np.stack([finished(arrays_of(item, size, 3), size, CENTRE, False) for item in items])
    found = encoder.latents(pixels.reshape(-1, *pixels.shape[2:])).astype(np.float16)
    latents: np.ndarray = found.reshape(len(items), -1, *found.shape[1:])
    return latents


def _beside(item: Item) -> Mapping[str, Any]:
    found = {name: item.columns[name] for name in COMMON if name in item.columns}
    if "rewards" in item.columns:
        found |= dict(zip(("score_0", "score_1"), item.columns["rewards"], strict=True))
    return found


def _text(item: Item, states: np.ndarray | None, more: np.ndarray | None) -> Mapping[str, Any]:
    found: dict[str, Any] = {"caption": item.caption}
    if states is not None:
        found[STATES] = states.astype(np.float32).tolist()
    if more is not None or item.more_states is not None:
        found[MORE_STATES] = item.more_states if more is None else more.astype(np.float32).tolist()
    return found
