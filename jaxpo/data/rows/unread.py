"""What a row holds and nobody reads: counted where it does not matter, refused where it would decide what is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from jaxpo.data.rows.contents import READS_TEXT
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.messages import KEYS
from jaxpo.data.rows.tokenised import IDS, MASKS

WEIGHTS = ("prompt_mask", "prompt_masks", "loss_weights", "token_weights")
OTHER_MEDIA = ("videos", "video", "audios", "audio")
PLACELESS = ("tokens", "two_prompt", "query_positive", "query_documents", "tagged", "tagged_text")
"""Types of rows without one prompt that all of their texts share, in which an image could stand."""
COLUMN, KEY = "unread_column_", "unread_message_key_"
"""How the counts of what is not read begin."""
_EMPTY: tuple[Any, ...] = ("", [], {}, ())


def check_refused(row: Row, *, masks: bool) -> None:
    """DataError for a column that would decide what is trained on, and cannot.

    Args:
      masks: over tokens are among them: the row's texts are tokenised here.
    """
    for name in (*WEIGHTS, *(MASKS if masks else ())):
        if name in row.data:
            raise row.error(
                f"{name!r} marks tokens of another tokenisation; texts are tokenised here anew, so it cannot be kept.",
                field=name,
                remedy='Give messages, with "train": false on turns that are not to be learnt, or prompt and '
                f"completion; then remove the column. Or give {IDS} with it, and no texts.",
            )
    for name in OTHER_MEDIA:
        if name in row.data and row.data[name] not in _EMPTY:
            raise row.error(
                f"{name!r} holds what is no text: {READS_TEXT}.",
                field=name,
                remedy="Leave out such rows, or remove the column to train on their text alone; a model that sees is "
                "shown a clip as the list of its frames.",
            )


def check_pictures(row: Row, kind: str, *, seen: bool) -> None:
    """DataError for images that nobody sees, or that rows of this type have no place for."""
    if not seen:
        what = "a part of type 'image' shows" if getattr(row.data["images"], "in_parts", False) else "'images' holds"
        raise row.error(
            f"{what} what is no text: {READS_TEXT}.",
            field="images",
            remedy="Leave out such rows, remove the images to train on their text alone, or train a model that sees.",
        )
    if kind in PLACELESS:
        remedy = "Give the images with messages, or with a prompt that all answers share."
        raise row.error(f"rows of type {kind!r} cannot show images.", field="images", remedy=remedy)


def unread(row: Row, read: Set[str]) -> tuple[str, ...]:
    """The names under which a row's unread columns, and unread keys of its messages, are counted."""
    names = [COLUMN + name for name, value in row.data.items() if name not in read and value not in _EMPTY]
    lists = [value for name, value in row.data.items() if isinstance(value, list) and name in read]
    keys = {key for value in lists for key in _keys(value)}
    return (*names, *(KEY + key for key in sorted(keys)))


def _keys(value: list[Any]) -> Iterator[str]:
    """Keys of messages in a list, in lists of messages too, that say something and are not read."""
    for item in value:
        if isinstance(item, Mapping) and ("role" in item or "from" in item):
            yield from (key for key, said in item.items() if key not in KEYS and said is not None)
        elif isinstance(item, list):
            yield from _keys(item)
