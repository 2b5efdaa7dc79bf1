"""Clips in rows: a list of frames in their order, which become images where the clip stands.

That is at each part `{"type": "video", "video": frames}`, one without frames being filled from the columns `video`
(frames) or `videos` (a list of clips); else at each `<video>` that is written where the row begins; else before the
first user turn's text. A frame is given as any image is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.strings import counted, mapped

PART, LITERAL = "video", "<video>"
COLUMNS = ("videos", "video")
FRAME, OF = "frame", "of"
"""Keys of an image that is a frame: its number, from 0, and how many its clip has."""


def evenly(length: int, most: int) -> list[int]:
    """Numbers of at most so many frames: frame k of n at the time (k + 1/2) / n of the clip; all of a shorter one."""
    return [*range(length)] if length <= most else [(2 * k + 1) * length // (2 * most) for k in range(most)]


def shown(pictures: Sequence[Any], most: int) -> list[bool]:
    """Which of a row's images are shown: all that are no frames, and at most so many of each clip's."""
    return [not is_frame(each) or each[FRAME] in set(evenly(each[OF], most)) for each in pictures]


def is_frame(picture: Any) -> bool:
    """Whether an image is a frame of a clip."""
    return isinstance(picture, Mapping) and {FRAME, OF} <= picture.keys()


def with_frames(row: Row, data: dict[str, Any], texts: Sequence[str], first: Sequence[str]) -> dict[str, Any]:
    """The columns with images in place of clips; as they are where there are none.

    Args:
      texts: columns in which parts may stand.
      first: those of them that begin the row, one whole or several alike, in which `<video>` is a place.

    Raises:
      DataError: a clip without frames, or in another form; clips and places for them that are not as many.
    """
    clips = _column(row, data)
    placed = [clip for name in texts if name in data for clip in _in_parts(data[name])]
    if not clips and not placed:
        return data
    given = [_frames(row, clip) for clip in clips]
    rest = {name: value for name, value in data.items() if name not in COLUMNS}
    if placed:
        empty = sum(clip is None for clip in placed)
        if empty != len(given):
            raise _unequal(row, empty, len(given))
        waiting = iter(given)
        return {name: _filled(row, value, waiting) if name in texts else value for name, value in rest.items()}
    if any(rest.get(name) is not None and len(rest[name]) for name in ("images", "image")):
        raise row.error(
            "there are clips and images, whose order nobody says.",
            field=PART,
            remedy='Give both as parts, {"type": "video", "video": [...]} and {"type": "image", "image": ...}.',
        )
    for name in first:
        waiting = iter(given)
        written = counted(rest[name], LITERAL)
        if written and written != len(given):
            raise _unequal(row, written, len(given))
        rest[name] = mapped(rest[name], partial(_written, waiting=waiting)) if written else rest[name]
    return rest | {"images": [frame for clip in given for frame in clip]}


def _column(row: Row, data: Mapping[str, Any]) -> list[Any]:
    """The clips of the columns; what is no list of frames is left for those who refuse it.

    Raises:
      DataError: both columns hold something.
    """
    one, several = data.get("video"), data.get("videos")
    if _is_list(one) and len(one) and _is_list(several) and len(several):
        raise row.error("holds video and videos.", field="video", remedy="Give all clips in videos, in their order.")
    if _is_list(several) and len(several) and all(map(_is_list, several)):
        return list(several)
    if not _is_list(one) or not len(one):
        return []
    return list(one) if all(map(_is_list, one)) else [one]


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0)


def _frames(row: Row, clip: Any) -> list[dict[str, Any]]:
    """The frames of a clip as images that know their places."""
    if not _is_list(clip) or not len(clip):
        what = "has no frames" if _is_list(clip) else f"is {type(clip).__name__}"
        raise row.error(f"a clip {what}.", field=PART, remedy="Give the list of its frames' images, in their order.")
    found = []
    for number, frame in enumerate(clip):
        if frame is None or (hasattr(frame, "__len__") and not len(frame)):
            raise row.error(f"frame {number} of a clip is empty.", field=PART, remedy="Give an image, or leave it out.")
        payload = {"bytes": frame} if isinstance(frame, bytes) else {"path": frame}
        payload = dict(frame) if isinstance(frame, Mapping) else payload
        found.append({**payload, FRAME: number, OF: len(clip)})
    return found


def _in_parts(value: Any) -> Iterator[Any]:
    """What the parts of messages hold that are clips; None of one that the column fills."""
    if isinstance(value, Mapping):
        if value.get("type") == PART:
            yield value.get(PART)
        else:
            yield from _in_parts(value.get("content", value.get("value")))
    elif isinstance(value, list):
        for item in value:
            yield from _in_parts(item)


def _filled(row: Row, value: Any, waiting: Iterator[list[dict[str, Any]]]) -> Any:
    """Messages with parts that are images in place of those that are clips."""
    if isinstance(value, Mapping):
        key = "content" if "content" in value else "value"
        return {**value, key: _filled(row, value[key], waiting)} if key in value else value
    if not isinstance(value, list):
        return value
    found: list[Any] = []
    for item in value:
        if isinstance(item, Mapping) and item.get("type") == PART:
            clip = next(waiting) if item.get(PART) is None else _frames(row, item[PART])
            found += [{"type": "image", "image": frame} for frame in clip]
        else:
            found.append(_filled(row, item, waiting))
    return found


def _written(text: str, waiting: Iterator[list[dict[str, Any]]]) -> str:
    """A text with a place for each frame where one for a clip is written."""
    before, *after = text.split(LITERAL)
    return before + "".join("<image>" * len(next(waiting)) + text for text in after)


def _unequal(row: Row, places: int, clips: int) -> Exception:
    what = f"the text has {places} place{'s' * (places != 1)} for clips, and {clips} are given."
    return row.error(what, field=PART, remedy="Give one clip for each place, in their order.")
