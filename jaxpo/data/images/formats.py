"""Rows of files -> images with captions, or pairs of them: published forms, told apart by their columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxpo.config.image_data import ImageData
from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError

CAPTIONS = ("caption", "prompt", "text")
STATES, MORE_STATES = "states", "adapter_states"
COMMON = ("user", "label", "user_tokens", "weight", "num_example_per_prompt")
TIE, UNLABELLED = "tie", "unlabelled"
Holds = Literal["pairs", "single images", "captions alone"]


@dataclass(frozen=True)
class Item:
    """One example as it stands in a file.

    Attributes:
      images: payloads of one image, or of the chosen and the rejected one; of latents nested lists `[C][h][w]`; none of
        a caption alone.
      fields: the columns that they stand in, for messages.
      caption: its text; None where `states` stand alone in its place.
      columns: "rewards" (of both images), "user", "weight", "label", "user_tokens", "num_example_per_prompt", "tie",
        "unlabelled".
      latent: whether the images are latents.
      states: nested lists `[L][Dc]`.
      more_states: `[L][C]` of a second text encoder, None where the row has none.
    """

    file: Path
    row: int
    images: tuple[Any, ...]
    fields: tuple[str, ...]
    caption: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    latent: bool = False
    states: Any = None
    more_states: Any = None

    def error(self, message: str, *, field: str | None = None, remedy: str | None = None) -> DataError:
        """A DataError that says where this example stands."""
        return DataError(message, file=self.file, row=self.row, field=field, remedy=remedy)


@dataclass(frozen=True)
class Format:
    """A published form of rows.

    Attributes:
      columns: those that every row has, beside a caption.
      holds: "pairs" of images, "single images", or "captions alone".
      read: `(row, settings) -> items`.
    """

    columns: tuple[str, ...]
    holds: Holds
    read: Callable[[Row, ImageData], Iterator[Item]]


def caption_of(row: Row) -> str:
    """The caption; an empty one is a caption too.

    Raises:
      DataError: there is none, or it is no string.
    """
    for name in CAPTIONS:
        if name in row.data:
            if not isinstance(row.data[name], str):
                raise row.error(f"is a {type(row.data[name]).__name__}, not a string.", field=name)
            caption: str = row.data[name]
            return caption
    raise row.error("has no caption.", remedy=f"Add a column {' or '.join(CAPTIONS)}; '' is the empty caption.")


def text_of(row: Row) -> tuple[Any, str | None]:
    """States and caption; a row that has states may do without the words."""
    states = row.data.get(STATES)
    said = states is None or any(row.data.get(name) is not None for name in CAPTIONS)
    return states, caption_of(row) if said else None


def number(row: Row, name: str) -> float:
    """A finite number of a column."""
    value = row.data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise row.error(f"is {value!r}, not a number.", field=name)
    return float(value)


def flag(row: Row, name: str) -> bool | None:
    """True or false of a column; None where it is empty or missing."""
    value = row.data.get(name)
    if value is None:
        return None
    if value not in (0, 1) or not isinstance(value, bool | int | float):
        raise row.error(f"is {value!r}, not true or false.", field=name, remedy="Use true/false or 1/0.")
    return bool(value)


def common(row: Row, images: ImageData) -> dict[str, Any]:
    """The columns that every form may have; null is as good as none."""
    found: dict[str, Any] = {name: row.data[name] for name in COMMON if row.data.get(name) is not None}
    if row.data.get("user_id") is not None:
        found.setdefault("user", row.data["user_id"])
    if "user" in found:
        found["user"] = str(found["user"])
    if images.per_prompt:
        found["weight"] = 1.0 / max(number(row, "num_example_per_prompt"), 1.0)
    elif "weight" in found:
        found["weight"] = number(row, "weight")
        if not found["weight"] > 0:
            raise row.error(f"is {found['weight']:g}; it must be above 0.", field="weight")
    return found


def scores_of(row: Row, names: tuple[str, str] = ("score_0", "score_1")) -> dict[str, Any]:
    """`rewards` of the chosen and the rejected image, where a row has them."""
    return {} if row.data.get(names[0]) is None else {"rewards": tuple(number(row, name) for name in names)}


def pick_a_pic(row: Row, images: ImageData) -> Iterator[Item]:
    """Pick-a-Pic: `jpg_0`, `jpg_1` with labels 1 and 0, or .5 for a tie; `score_0`, `score_1` where they are."""
    first, second = number(row, "label_0"), number(row, "label_1")
    columns = common(row, images)
    names, scores = ("jpg_0", "jpg_1"), ("score_0", "score_1")
    if second > first:
        names, scores = names[::-1], scores[::-1]
    columns |= scores_of(row, scores)
    if flag(row, "has_label") is False:
        columns[UNLABELLED] = True
    columns[TIE] = first == second
    yield Item(row.file, row.number, tuple(row.data[n] for n in names), names, caption_of(row), columns)


def pairs(row: Row, images: ImageData) -> Iterator[Item]:
    """`chosen_image`, `rejected_image`; `score_0`, `score_1` are the rewards of the first and the second."""
    columns, names = common(row, images) | scores_of(row), ("chosen_image", "rejected_image")
    columns[TIE] = flag(row, "tie") is True
    yield Item(row.file, row.number, tuple(row.data[n] for n in names), names, caption_of(row), columns)


def singles(row: Row, images: ImageData) -> Iterator[Item]:
    """`image`, with `label` where it is good or bad."""
    yield Item(row.file, row.number, (row.data["image"],), ("image",), caption_of(row), common(row, images))


def latents(row: Row, images: ImageData) -> Iterator[Item]:
    """`latent`, or `latent_w` and `latent_l`, `[C][h][w]`, with `scale`; text states in the place of a caption."""
    names = ("latent",) if "latent" in row.data else ("latent_w", "latent_l")
    if "scale" not in row.data:
        raise row.error(
            "does not say what its latents were multiplied with.",
            field="scale",
            remedy=f"Add a column `scale`, {images.latent_scale:g} for Stable Diffusion 1.5's encoder.",
        )
    scale = number(row, "scale")
    if not math.isclose(scale, images.latent_scale, rel_tol=1e-6):
        raise row.error(
            f"its latents were multiplied with {scale:g}, and the stage reads them as {images.latent_scale:g}.",
            field="scale",
            remedy="Set images.latent_scale to it, or encode the images again.",
        )
    columns = common(row, images) | (scores_of(row) if len(names) == 2 else {})
    states, caption = text_of(row)
    values = tuple(row.data[name] for name in names)
    yield Item(row.file, row.number, values, names, caption, columns, latent=True, states=states)


def scored(row: Row, images: ImageData) -> Iterator[Item]:
    """`images` with `scores`: the best and the worst of them as a pair, or every two, the better one first."""
    given, scores = row.data["images"], row.data["scores"]
    if not isinstance(given, list) or not isinstance(scores, list) or len(given) != len(scores) or len(given) < 2:
        raise row.error("a scored list has as many numbers as images, at least two.", field="scores")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise row.error(f"holds {score!r}, not a number.", field="scores")
    order = sorted(range(len(given)), key=lambda i: -scores[i])
    chosen = [(order[0], order[-1])] if images.lists == "extremes" else list(itertools.combinations(order, 2))
    columns, caption = common(row, images), caption_of(row)
    for better, worse in chosen:
        own = {"rewards": (float(scores[better]), float(scores[worse])), TIE: scores[better] == scores[worse]}
        pair = (given[better], given[worse])
        yield Item(row.file, row.number, pair, ("images", "images"), caption, columns | own)


def captions(row: Row, images: ImageData) -> Iterator[Item]:
    """A caption, or `states` in its place, and no image: for what draws its own."""
    states, caption = text_of(row)
    yield Item(row.file, row.number, (), (), caption, common(row, images), states=states)


CAPTIONS_ALONE = "captions"
FORMATS: dict[str, Format] = {
    "pick_a_pic": Format(("jpg_0", "jpg_1", "label_0", "label_1"), "pairs", pick_a_pic),
    "pairs": Format(("chosen_image", "rejected_image"), "pairs", pairs),
    "latent_pairs": Format(("latent_w", "latent_l"), "pairs", latents),
    "latents": Format(("latent",), "single images", latents),
    "scored": Format(("images", "scores"), "pairs", scored),
    "images": Format(("image",), "single images", singles),
    CAPTIONS_ALONE: Format((), "captions alone", captions),
}
"""Name -> form, the first whose columns a row has."""


def items_of_row(row: Row, images: ImageData) -> Iterator[Item]:
    """The examples of a row, whatever its form."""
    for item in FORMATS[format_of(row)].read(row, images):
        yield replace(item, more_states=row.data.get(MORE_STATES))


def format_of(row: Row) -> str:
    """The form of a row.

    Raises:
      DataError: it has the columns of none.
    """
    for name, form in FORMATS.items():
        if set(form.columns) <= row.data.keys() and (form.columns or row.data.keys() & {*CAPTIONS, STATES}):
            return name
    raise row.error(f"its columns ({', '.join(sorted(row.data))}) are those of no form of images.", remedy=known())


def known() -> str:
    """What columns there must be, as a remedy."""
    forms = "; ".join(f"{name}: {', '.join(form.columns)}" for name, form in FORMATS.items() if form.columns)
    return f"Give, beside a caption, those of one of {forms}."
