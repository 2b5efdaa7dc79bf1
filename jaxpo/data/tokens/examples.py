"""From checked rows to examples: token segments with their supervised masks, roles, and columns; truncation counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.data.rows.rows import PAIRS, Record, Side
from jaxpo.data.rows.segments import marked_text
from jaxpo.data.rows.tokenised import Tokens
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.encoded import Encoded, Segment
from jaxpo.data.tokens.marked import marked_tokens
from jaxpo.data.tokens.media import Patches, Picture
from jaxpo.data.tokens.rendering import LISTED, Cut, TrainOn, untrained
from jaxpo.data.tokens.taken import check_ids
from jaxpo.errors import DataError

Encoding = tuple[np.ndarray, np.ndarray]
LISTS = ("list", "tree")


@dataclass(frozen=True)
class Example:
    """What is packed: segments, which of them plays which role (-1 = absent), and numbers that travel along.

    Attributes:
      roles: role -> segment index, or a list of them.
      columns: name -> number or list.
      file, row: where it came from (index into the dataset's files; row number).
      media: what the vectors are made of that "media" counts, one image tile or stretch of sound after another; shared
        by the example's segments.
      pictures: images whose pieces are the media instead, once they are decoded.
    """

    segments: tuple[Segment, ...]
    roles: dict[str, int | list[int]]
    columns: dict[str, Any] = field(default_factory=dict)
    file: int = 0
    row: int = 0
    media: tuple[Patches, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def media_lengths(self) -> tuple[int, ...]:
        """Patches of each medium."""
        return (*map(len, self.media), *(n for picture in self.pictures for n in picture.lengths))

    def error(self, message: str, *, field: str, remedy: str, file: object = None) -> DataError:
        """A DataError that says which row the example was made from."""
        return DataError(message, file=file, row=self.row, field=field, remedy=remedy)


def encoded_sides(
    record: Record, given: Sequence[Encoding | None], tokenizer: Tokenizer, cut: Cut, counts: Counter[str]
) -> list[Encoded | None]:
    """A record's sides in tokens: its own, or those of its texts; None for a side without any."""
    return [
        _taken(record, side.tokens, tokenizer, counts)
        if side.tokens
        else (None if text is None else _with_border(record, side, *text, cut.train_on, tokenizer))
        for side, text in zip(record.sides, given, strict=True)
    ]


def _taken(record: Record, tokens: Tokens, tokenizer: Tokenizer, counts: Counter[str]) -> Encoded:
    check_ids(record, tokens, tokenizer, counts)
    learnt = np.asarray(tokens.flags)
    return Encoded(np.asarray(tokens.ids, np.int32), learnt, int(learnt.argmax()))


def _with_border(
    record: Record, side: Side, tokens: np.ndarray, supervised: np.ndarray, train_on: TrainOn, tokenizer: Tokenizer
) -> Encoded:
    given = int(supervised.argmax()) if supervised.any() else len(tokens)
    per_token = {}
    if side.marks:
        text = marked_text(record.row, side, side.role)
        try:
            per_token = marked_tokens(tokens, given, text, side.marks, tokenizer)
        except DataError as error:
            raise record.row.placed(error, field=side.role) from error
    return Encoded(tokens, np.ones_like(supervised) if train_on == "all" else supervised, given, per_token)


def segments_of(
    record: Record, encoded: list[Encoded | None], cut: Cut, counts: Counter[str]
) -> Iterator[list[Segment | None]]:
    """The segments of each example that a record gives: none when dropped, several when a text is split."""
    tokens = record.sides[0].tokens
    if record.kind == "text" or (tokens is not None and tokens.learnt is None):
        assert encoded[0] is not None
        yield from _pieces(record, encoded[0], cut, counts)
        return
    # A mismatched response is no data of its own: it is cut to fit and never a reason to drop or refuse a row.
    mismatched = [side for side, of in zip(encoded, record.sides, strict=True) if side is not None and of.role == "kl"]
    present = [side for side, of in zip(encoded, record.sides, strict=True) if side is not None and of.role != "kl"]
    counts["empty_responses"] += sum(side is None for side in encoded)
    if record.kind in LISTS and len(present) < 2:
        counts["dropped_fewer_than_2_responses"] += 1
        return
    for side in present:
        if record.kind != "prompt" and not side.supervised[1:].any():
            raise untrained(record, cut.train_on)
    fitted = _fit(record, present, cut, counts)
    if fitted is None:
        return
    if record.kind == "tree":
        steps = [len(side.marks) for side in record.sides if side.marks]
        counts["merged_steps"] += sum(steps) - len(steps) * min(steps, default=0)
    if cut.truncation == "prompt_left" and not record.pictures:
        mismatched = _cut_prompts(mismatched, cut.max_length)
    parts = iter([*fitted, *(side.segment(cut.max_length) for side in mismatched)])
    yield [None if side is None else next(parts) for side in encoded]


def split_text(tokens: np.ndarray, max_length: int) -> list[np.ndarray]:
    """Cut a document into pieces of at most `max_length` that overlap by one token, so each token is a target once."""
    starts = range(0, max(len(tokens) - 1, 1), max_length - 1)
    return [tokens[start : start + max_length] for start in starts]


def _pieces(record: Record, document: Encoded, cut: Cut, counts: Counter[str]) -> Iterator[list[Segment | None]]:
    """A document, in pieces where it is too long; its images stay together in the first of them."""
    pieces = split_text(document.tokens, cut.max_length)
    if not record.pictures:
        counts["split_documents"] += len(pieces) > 1
        for piece in pieces:
            yield [Segment(piece, np.ones(len(piece), bool))]
        return
    first = document.segment(cut.max_length)
    if not _keeps_images(record, [document], [document.keep(slice(cut.max_length), document.given)], cut, counts):
        return
    counts["split_documents"] += len(pieces) > 1
    yield [first]
    for piece in pieces[1:]:
        yield [Segment(piece, np.ones(len(piece), bool))]


def _keeps_images(
    record: Record, before: Sequence[Encoded], after: Sequence[Encoded], cut: Cut, counts: Counter[str]
) -> bool:
    """Whether every image is still whole; one that is cut is an error, or drops the row under truncation="drop"."""
    if all(a.image_tokens == b.image_tokens for a, b in zip(before, after, strict=True)):
        return True
    if cut.truncation == "drop":
        counts["dropped_longer_than_max_length"] += 1
        return False
    remedy = "Raise data.max_length, allow images fewer vectors, or set data.truncation to drop."
    what = f"an image would be cut: {max(len(side.tokens) for side in before)} tokens, and max_length is "
    raise record.row.error(f"{what}{cut.max_length}.", field="images", remedy=remedy)


def _fit(record: Record, sides: list[Encoded], cut: Cut, counts: Counter[str]) -> list[Segment] | None:
    longest, whole = max(len(side.tokens) for side in sides), sides
    if longest > cut.max_length:
        if not cut.shortens(record.row, longest, counts):
            return None
        if cut.truncation == "prompt_left":
            before, sides = sides, _cut_prompts(sides, cut.max_length)
            counts["truncated_prompt"] += any(a.given != b.given for a, b in zip(before, sides, strict=True))
        counts["truncated_response"] += any(len(side.tokens) > cut.max_length for side in sides)
        cut_off = [x[cut.max_length :] for side in sides for x in side.per_token.values()]
        counts["truncated_labels"] += any((x > 0).any() for x in cut_off)
    if not _keeps_images(record, whole, [side.keep(slice(cut.max_length), side.given) for side in sides], cut, counts):
        return None
    segments = [side.segment(cut.max_length) for side in sides]
    if record.kind != "prompt" and not all(segment.supervised[1:].any() for segment in segments):
        raise record.row.error(
            f"the prompt has {max(s.given for s in sides)} tokens and max_length is {cut.max_length}: no supervised "
            "token of the response is left.",
            field="prompt",
            remedy="Raise data.max_length, or set data.truncation to prompt_left or drop.",
        )
    if record.kind in PAIRS and np.array_equal(segments[0].tokens, segments[1].tokens):
        counts["dropped_equal_after_truncation"] += 1
        return None
    return segments


def _cut_prompts(sides: list[Encoded], max_length: int) -> list[Encoded]:
    """Drop the start of prompts, keeping BOS; sides with the same prompt lose the same tokens."""
    prompts = [side.tokens[: side.given].tobytes() for side in sides]
    result = []
    for side, prompt in zip(sides, prompts, strict=True):
        longest = max(len(other.tokens) for other, p in zip(sides, prompts, strict=True) if p == prompt)
        removed = min(max(longest - max_length, 0), side.given - 1)
        keep = np.r_[0, removed + 1 : len(side.tokens)]
        result.append(side.keep(keep, side.given - removed))
    return result


def roles_of(record: Record, segments: list[Segment | None]) -> tuple[dict[str, int | list[int]], tuple[Segment, ...]]:
    kept: list[Segment] = []
    roles: dict[str, int | list[int]] = dict.fromkeys(record.absent, -1)
    for side, segment in zip(record.sides, segments, strict=True):
        index = len(kept) if segment is not None else -1
        if segment is not None:
            kept.append(segment)
        if side.role in LISTED:
            listed = roles.setdefault(side.role, [])
            assert isinstance(listed, list)
            listed.append(index)
        else:
            roles[side.role] = index
    return roles, tuple(kept)
