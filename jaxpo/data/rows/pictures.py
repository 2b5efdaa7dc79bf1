"""The images of a row, in whichever form they come: one list of payloads, and a mark in the text where each stands.

| who writes them so | form |
|---|---|
| TRL | column `images` or `image`; contents are strings (all images stand before the first user turn's text) or parts |
| leap-finetune | parts `{"type": "image", "image": path}` |
| LLaMA-Factory | column `images`, and `<image>` in the text where each stands |
| OpenAI | parts `{"type": "image_url", "image_url": {"url": path or data: URL}}` |
| anybody | clips as lists of frames (`jaxpo.data.rows.clips`) |
| Hugging Face Parquet | `{"bytes": ..., "path": ...}` in any of these places |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpo.data.rows.clips import with_frames
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.messages import ALIASES
from jaxpo.data.rows.strings import counted, mapped
from jaxpo.data.rows.turns import is_rendered

MARK = "\ufdd0"
"""Where an image stands in a text; a character that Unicode reserves for programs, so that no text holds it."""
LITERAL = "<image>"
COLUMN, COLUMNS = "images", ("images", "image")
PARTS = ("image", "image_url", "input_image")
_PAYLOADS = ("image", "image_url", "url", "path", "bytes")
_FIRST = ("messages", "prompt", "instruction", "text")
"""Where a row begins; the images of a column stand in the first of them."""
_SIDES = ("chosen", "rejected")
_BESIDE = ("input", "history", "system")
"""What becomes a part of the prompt, and is not where the images of a column stand."""
_TEXTS = (*_FIRST, *_SIDES, "completion", *_BESIDE, "gold", "responses")


class Pictures(list[Any]):
    """A row's payloads in the order of their marks: the column of a row that is in this form already.

    Attributes:
      in_parts: messages have parts that show them; else a column alone names them.
    """

    in_parts: bool = False


def with_pictures(row: Row, data: dict[str, Any]) -> dict[str, Any]:
    """The columns with a mark for each image, and all payloads under `images`; as they are where there is no image.

    Raises:
      DataError: images and places for them are not as many; a payload is missing; images without a text to stand in,
        or in an answer; no place in a text that is rendered already, or one in a column that is not searched for it.
    """
    if isinstance(data.get(COLUMN), Pictures):
        return data
    if not data.keys() & set(COLUMNS) and all(isinstance(value, str) for value in data.values()):
        return data  # most rows, of strings alone, have no place for one
    data = with_frames(row, data, _TEXTS, _begins(data))
    if not _has_pictures(data):
        return data
    given = _column(row, data)
    data = {name: value for name, value in data.items() if name not in COLUMNS}
    if any(counted(data.get(name), MARK) for name in _TEXTS):
        raise row.error("the text holds U+FDD0, which marks images here.", field=COLUMN, remedy="Take it out.")
    found: dict[str, list[Any]] = {}
    for name in _TEXTS:
        if name in data:
            found[name], data[name] = _of_parts(row, name, data[name])
    begins = _begins(data)
    if not begins:
        raise row.error("there is an image, and no text that it could stand in.", field=COLUMN, remedy=_REMEDY)
    _check_sides(row, begins, found)
    slots = [place for name in _ordered(begins, found) for place in found[name]]
    if slots:
        pictures = _filled(row, slots, given)
        pictures.in_parts = True
        return data | {COLUMN: pictures}
    _check_beside(row, begins, data)
    for name in begins:
        data[name] = _placed(row, name, data, given)
    return data | {COLUMN: Pictures(given)}


def _begins(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a row begins; in both sides, where each is a whole conversation."""
    return next(((name,) for name in _FIRST if name in data), tuple(name for name in _SIDES if name in data))


def without_marks(text: str) -> str:
    """A text as it is read where no image is."""
    return text.replace(MARK, "")


_REMEDY = "Give `messages`, `prompt` or `text`, and one image for each place, in their order."


def _has_pictures(data: Mapping[str, Any]) -> bool:
    return any(not _is_empty(data.get(name)) for name in COLUMNS) or any(
        _part_in(data[name]) for name in _TEXTS if name in data
    )


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _part_in(value: Any) -> bool:
    """Whether a part of some message is an image."""
    if isinstance(value, Mapping):
        content = value.get("content", value.get("value"))
        return any(map(_is_part, content)) if isinstance(content, list) else _is_part(content)
    return isinstance(value, list) and any(map(_part_in, value))


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in PARTS


def _column(row: Row, data: Mapping[str, Any]) -> list[Any]:
    """What the columns hold, in order."""
    held = [name for name in COLUMNS if not _is_empty(data.get(name))]
    if len(held) > 1:
        raise row.error("there are both `images` and `image`.", field=COLUMN, remedy="Keep one of them.")
    if not held:
        return []
    value = data[held[0]]
    listed = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    for i, payload in enumerate(listed):
        if _is_empty(payload):
            raise row.error(f"image {i} is empty.", field=held[0], remedy=_REMEDY)
    return listed


def _of_parts(row: Row, name: str, value: Any) -> tuple[list[Any], Any]:
    """Payloads of the parts that are images (None: to be taken from the column), and the value with marks instead."""
    if isinstance(value, Mapping):
        key = "content" if "content" in value else "value"
        parts = value.get(key)
        parts = [parts] if _is_part(parts) else parts
        if not isinstance(parts, list) or not any(map(_is_part, parts)):
            return [], value
        found = [_payload(row, name, part) for part in parts if _is_part(part)]
        return found, {**value, key: [{"type": "text", "text": MARK} if _is_part(p) else p for p in parts]}
    if not isinstance(value, list):
        return [], value
    each = [_of_parts(row, name, item) for item in value]
    return [payload for found, _ in each for payload in found], [changed for _, changed in each]


def _payload(row: Row, name: str, part: Mapping[str, Any]) -> Any:
    if isinstance(text := part.get("base64"), str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise row.error(f"an image is no base64: {error}.", field=name, remedy="Encode it again.") from error
    value = next((part[key] for key in _PAYLOADS if part.get(key)), None)
    return value.get("url", value) if isinstance(value, Mapping) else value


def _ordered(begins: Sequence[str], found: Mapping[str, list[Any]]) -> list[str]:
    """The columns whose images are the row's: of sides that both begin it, the first."""
    return [begins[0], *(name for name in found if name not in begins and name not in _SIDES and found[name])]


def _filled(row: Row, slots: Sequence[Any], given: Sequence[Any]) -> Pictures:
    """Payloads of all places, those that have none from the column, which may also say again what all places hold."""
    if list(given) == list(slots):
        return Pictures(slots)
    empty = sum(place is None for place in slots)
    if empty != len(given):
        raise _unequal(row, empty, len(given))
    rest = iter(given)
    return Pictures(next(rest) if place is None else place for place in slots)


def _check_sides(row: Row, begins: Sequence[str], found: Mapping[str, list[Any]]) -> None:
    """DataError for an image in an answer; where two sides that are whole conversations show different images."""
    for name in _SIDES:
        if name not in begins and found.get(name):
            remedy = "Show it in the prompt: all answers share its images."
            raise row.error("an image stands in an answer.", field=name, remedy=remedy)
    if len(begins) > 1 and found[begins[0]] != found[begins[1]]:
        what = "chosen and rejected show different images."
        raise row.error(what, field="rejected", remedy="Give both the same images, in one prompt.")


def _check_beside(row: Row, begins: Sequence[str], data: Mapping[str, Any]) -> None:
    """DataError where `<image>` is written in a column whose places are not read, and nowhere else."""
    stray = next((name for name in _BESIDE if counted(data.get(name), LITERAL)), None)
    if stray is not None and not any(counted(data[name], LITERAL) for name in begins):
        what = f"{LITERAL} stands in {stray}, where it is plain characters."
        remedy = f"Write it in {begins[0]}, where the images of a column have their places."
        raise row.error(what, field=stray, remedy=remedy)


def _placed(row: Row, name: str, data: Mapping[str, Any], given: Sequence[Any]) -> Any:
    """A column with marks for what is given: in place of each `<image>`, or before the first user turn's text."""
    value = data[name]
    written = counted(value, LITERAL)
    if written == len(given):
        return mapped(value, lambda text: text.replace(LITERAL, MARK))
    if written:
        raise _unequal(row, written, len(given))
    before = MARK * len(given)
    if isinstance(value, str):
        if is_rendered(value):
            what = "the text is rendered with the chat template and does not say where its images stand."
            raise row.error(what, field=name, remedy=f"Write {LITERAL} where each of them stands.")
        return before + value
    first = next((i for i, turn in enumerate(value) if _asks(turn)), None) if isinstance(value, list) else None
    if first is None:
        raise row.error("there is an image, and no user turn that it could stand in.", field=name, remedy=_REMEDY)
    turn = value[first]
    key = "content" if "content" in turn else "value"
    content = turn.get(key) or ""
    whole = [{"type": "text", "text": before}, *content] if isinstance(content, list) else before + str(content)
    return [*value[:first], {**turn, key: whole}, *value[first + 1 :]]


def _asks(turn: Any) -> bool:
    role = str(turn.get("role", turn.get("from"))).lower() if isinstance(turn, Mapping) else ""
    return ALIASES.get(role, role) == "user"


def _unequal(row: Row, places: int, images: int) -> Exception:
    what = f"the text has {places} place{'s' * (places != 1)} for images, and {images} are given."
    return row.error(what, field=COLUMN, remedy="Give one image for each place, in their order.")
