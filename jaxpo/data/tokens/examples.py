"""From checked rows to examples: token segments with their supervised masks, roles, and columns; truncation counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.data.chat.chat import encode_many
from jaxpo.data.chat.rendered import Edges
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.bad_rows import Bad, refuse
from jaxpo.data.rows.retrieval import RETRIEVAL
from jaxpo.data.rows.rows import PAIRS, Record, Side
from jaxpo.data.rows.segments import marked_text
from jaxpo.data.rows.tagged import TAGGED
from jaxpo.data.rows.tokenised import Tokens
from jaxpo.data.rows.turns import is_rendered
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens import fim
from jaxpo.data.tokens.encoded import Encoded, Segment
from jaxpo.data.tokens.marked import marked_tokens
from jaxpo.data.tokens.media import MEDIA, Patches, Picture
from jaxpo.data.tokens.pictures import Looking
from jaxpo.data.tokens.rendering import LISTED, Cut, Rendering, TrainOn, untrained
from jaxpo.data.tokens.retrieval import TextEncoder, columns_of, retrieval_segments, text_encoder
from jaxpo.data.tokens.specials import with_specials
from jaxpo.data.tokens.tagged import tagged_segments
from jaxpo.data.tokens.taken import check_ids
from jaxpo.data.tokens.words import with_words
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


def build_examples(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    cut: Cut,
    counts: Counter[str],
    files: Sequence[Any] = (),
    bad: Bad = refuse,
) -> Iterator[Example]:
    """Encode a chunk of records with one call of the tokenizer.

    Args:
      records: checked rows of one type.
      cut: window and truncation policy.
      counts: updated: kept, truncated_prompt, truncated_response, truncated_labels, dropped_*, empty_responses,
        split_documents, merged_steps (steps beyond those of the shortest branch of a tree), fim_documents (rearranged),
        fim_too_long (left as they are), left_out_frames (of clips of more than are shown), and what `Rendering` notes.
      files: gives `Example.file`.
      bad: receives the error of a row that cannot be used; the row is left out when it returns.

    Raises:
      DataError: a row with no supervised token; a row too long under truncation="error".
    """
    numbers = {file: i for i, file in enumerate(files)}
    if records and records[0].kind in RETRIEVAL:
        yield from _retrieval_examples(records, text_encoder(tokenizer, cut.texts), counts, numbers, bad)
        return
    if records and records[0].kind in TAGGED:
        for record, segment in tagged_segments(records, tokenizer, cut, counts, bad):
            counts["kept"] += 1
            file = numbers.get(record.row.file, 0)
            yield Example((segment,), {"completion": 0}, dict(record.columns), file, record.row.number)
        return
    rendering = Rendering(cut, tuple(tokenizer.special_ids), counts, template_of(tokenizer).render)
    looking = Looking(cut.images, tokenizer)
    whole: list[Record] = []
    rendered, pictures = [], []
    for record in records:
        try:
            as_read = rendering.as_read(record)
            spans, shown = rendering.sides(as_read), looking.planned(as_read)
            if left_out := len(as_read.pictures) - len(shown):
                counts["left_out_frames"] += left_out
            rendered.append(spans)
            pictures.append(shown)
            whole.append(as_read)
        except DataError as error:
            bad(error)
    encoded = encode_many(tokenizer, [spans for sides in rendered for spans in sides if spans])
    flat = iter(encoded if cut.fim is None else _with_fim(whole, encoded, tokenizer, cut, counts))
    for record, sides, seen in zip(whole, rendered, pictures, strict=True):
        given = [next(flat) if spans else None for spans in sides]
        try:
            encoded_sides = looking.shown(record, _encoded(record, given, tokenizer, cut, counts), seen)
            found = list(_segments(record, encoded_sides, cut, counts))
        except DataError as error:
            bad(error)
            continue
        for segments in found:
            counts["kept"] += 1
            roles, kept = _roles(record, segments)
            kept = with_words(kept, tokenizer) if cut.words else kept
            number = numbers.get(record.row.file, 0)
            own = seen if any(MEDIA in segment.per_token for segment in kept) else ()
            yield Example(kept, roles, dict(record.columns), number, record.row.number, pictures=own)


def _encoded(
    record: Record, given: Sequence[Encoding | None], tokenizer: Tokenizer, cut: Cut, counts: Counter[str]
) -> list[Encoded | None]:
    """A record's sides in tokens: its own, or those of its texts; None for a side without any."""
    return [
        _taken(record, side.tokens, tokenizer, counts)
        if side.tokens
        else (None if text is None else _with_border(record, side, *text, cut.train_on, tokenizer))
        for side, text in zip(record.sides, given, strict=True)
    ]


def _with_fim(
    records: Sequence[Record], encoded: Sequence[Encoding], tokenizer: Tokenizer, cut: Cut, counts: Counter[str]
) -> list[Encoding]:
    """The encoded documents, the chosen ones among them rearranged where that fits a segment."""
    assert cut.fim is not None
    texts = [str(record.sides[0].completion) for record in records]
    # What was rendered has its order already, and what shows an image keeps it where it is.
    free = [
        i
        for i, text in enumerate(texts)
        if not records[i].pictures and (cut.rendered == "text" or not (is_rendered(text) or Edges.of("", text).found))
    ]
    chosen = [i for i in free if fim.is_chosen(texts[i], records[i].row.file, cut.fim)]
    names = tuple(tokenizer.special_ids)
    spans = (fim.spans_of(texts[i], cut.fim) for i in chosen)
    moved = encode_many(tokenizer, [with_specials(one, names, cut.special_tokens)[0] for one in spans])
    result = list(encoded)
    for i, document in zip(chosen, moved, strict=True):
        fits = len(document[0]) <= cut.max_length
        counts["fim_documents" if fits else "fim_too_long"] += 1
        result[i] = document if fits else result[i]
    return result


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


def _segments(
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


def _retrieval_examples(
    records: Sequence[Record], encoder: TextEncoder, counts: Counter[str], numbers: dict[Any, int], bad: Bad
) -> Iterator[Example]:
    """A query and its documents, every token of which counts as trained on."""
    for record, texts, columns in retrieval_segments(records, encoder, counts):
        if not any(text.scored.any() for text in texts[1:]):
            remedy = "Remove the row, or shorten texts.skip."
            bad(record.row.error("no token of any document is scored.", field="documents", remedy=remedy))
            continue
        counts["kept"] += 1
        segments = [Segment(text.tokens, np.ones(len(text.tokens), bool), columns_of(text)) for text in texts]
        roles, kept = _roles(record, [*segments])
        file = numbers.get(record.row.file, 0)
        yield Example(kept, roles, {**record.columns, **columns}, file, record.row.number)


def _roles(record: Record, segments: list[Segment | None]) -> tuple[dict[str, int | list[int]], tuple[Segment, ...]]:
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
