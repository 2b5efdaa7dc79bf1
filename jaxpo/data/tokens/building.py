"""Chunks of records to examples, in three steps: rendered, encoded, cut. The tokenizer works ahead of the other two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxpo.data.chat.chat import Span, encode_many
from jaxpo.data.chat.rendered import Edges
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.bad_rows import Bad, refuse
from jaxpo.data.rows.retrieval import RETRIEVAL
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.tagged import TAGGED
from jaxpo.data.rows.turns import is_rendered
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens import fim
from jaxpo.data.tokens.ahead import one_ahead
from jaxpo.data.tokens.encoded import Segment
from jaxpo.data.tokens.examples import Encoding, Example, encoded_sides, roles_of, segments_of
from jaxpo.data.tokens.media import MEDIA, Picture
from jaxpo.data.tokens.pictures import Looking
from jaxpo.data.tokens.rendering import Cut, Rendering
from jaxpo.data.tokens.retrieval import TextEncoder, columns_of, retrieval_segments, text_encoder
from jaxpo.data.tokens.specials import with_specials
from jaxpo.data.tokens.tagged import tagged_segments
from jaxpo.data.tokens.words import with_words
from jaxpo.errors import DataError


@dataclass(frozen=True)
class _Rendered:
    """The records of a chunk that could be rendered: the spans of every side, and the pictures that are shown.

    Of records whose tokens are made otherwise there are no spans.
    """

    records: list[Record] = field(default_factory=list)
    spans: list[list[list[Span]]] = field(default_factory=list)
    pictures: list[tuple[Picture, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Builder:
    """Makes examples of checked rows of one type.

    Attributes:
      cut: window and truncation policy.
      counts: updated: kept, truncated_prompt, truncated_response, truncated_labels, dropped_*, empty_responses,
        split_documents, merged_steps (steps beyond those of the shortest branch of a tree), fim_documents (rearranged),
        fim_too_long (left as they are), left_out_frames (of clips of more than are shown), and what `Rendering` notes.
      files: gives `Example.file`.
      bad: receives the error of a row that cannot be used; the row is left out when it returns.
    """

    tokenizer: Tokenizer
    cut: Cut
    counts: Counter[str]
    files: Sequence[Any] = ()
    bad: Bad = refuse

    def examples(self, chunks: Iterable[Sequence[Record]]) -> Iterator[Example]:
        """The examples of all chunks, in order; while those of one are used, the next one's texts are encoded.

        Raises:
          DataError: a row with no supervised token; a row too long under truncation="error".
        """
        for chunk, encoded in one_ahead(map(self._rendered, chunks), self._encoded):
            yield from self._cut(chunk, encoded)

    def examples_of(self, records: Sequence[Record]) -> Iterator[Example]:
        """The examples of one chunk, with one call of the tokenizer; errors as of `examples`."""
        chunk = self._rendered(records)
        yield from self._cut(chunk, self._encoded(chunk))

    def _rendered(self, records: Sequence[Record]) -> _Rendered:
        if records and records[0].kind in self._otherwise:
            return _Rendered(list(records))
        chunk = _Rendered()
        for record in records:
            try:
                as_read = self._rendering.as_read(record)
                spans, shown = self._rendering.sides(as_read), self._looking.planned(as_read)
            except DataError as error:
                self.bad(error)
                continue
            if left_out := len(as_read.pictures) - len(shown):
                self.counts["left_out_frames"] += left_out
            chunk.records.append(as_read)
            chunk.spans.append(spans)
            chunk.pictures.append(shown)
        return chunk

    def _encoded(self, chunk: _Rendered) -> list[Encoding]:
        """The ids of every side that has any text; nothing else is read or changed, so that a thread may do it."""
        return encode_many(self.tokenizer, [spans for sides in chunk.spans for spans in sides if spans])

    def _cut(self, chunk: _Rendered, encoded: list[Encoding]) -> Iterator[Example]:
        if not chunk.records:
            return
        if make := self._otherwise.get(chunk.records[0].kind):
            yield from make(chunk.records)
            return
        flat = iter(encoded if self.cut.fim is None else self._with_fim(chunk.records, encoded))
        for record, sides, seen in zip(chunk.records, chunk.spans, chunk.pictures, strict=True):
            given = [next(flat) if spans else None for spans in sides]
            try:
                in_tokens = encoded_sides(record, given, self.tokenizer, self.cut, self.counts)
                found = list(segments_of(record, self._looking.shown(record, in_tokens, seen), self.cut, self.counts))
            except DataError as error:
                self.bad(error)
                continue
            for segments in found:
                roles, kept = roles_of(record, segments)
                kept = with_words(kept, self.tokenizer) if self.cut.words else kept
                own = seen if any(MEDIA in segment.per_token for segment in kept) else ()
                yield self._example(record, kept, roles, pictures=own)

    def _example(self, record: Record, segments: tuple[Segment, ...], roles: Any, **more: Any) -> Example:
        self.counts["kept"] += 1
        columns, file = dict(record.columns), self._numbers.get(record.row.file, 0)
        return Example(segments, roles, columns, file, record.row.number, **more)

    @cached_property
    def _rendering(self) -> Rendering:
        return Rendering(self.cut, tuple(self.tokenizer.special_ids), self.counts, template_of(self.tokenizer).render)

    @cached_property
    def _looking(self) -> Looking:
        return Looking(self.cut.images, self.tokenizer)

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        return {file: i for i, file in enumerate(self.files)}

    @cached_property
    def _otherwise(self) -> Mapping[str, Callable[[Sequence[Record]], Iterator[Example]]]:
        """What makes examples of the types whose texts are no prompts and answers."""
        return dict.fromkeys(RETRIEVAL, self._of_retrieval) | dict.fromkeys(TAGGED, self._of_tagged)

    @cached_property
    def _texts(self) -> TextEncoder:
        return text_encoder(self.tokenizer, self.cut.texts)

    def _of_retrieval(self, records: Sequence[Record]) -> Iterator[Example]:
        """A query and its documents, every token of which counts as trained on."""
        for record, texts, columns in retrieval_segments(records, self._texts, self.counts):
            if not any(text.scored.any() for text in texts[1:]):
                remedy = "Remove the row, or shorten texts.skip."
                self.bad(record.row.error("no token of any document is scored.", field="documents", remedy=remedy))
                continue
            segments = [Segment(text.tokens, np.ones(len(text.tokens), bool), columns_of(text)) for text in texts]
            roles, kept = roles_of(record, [*segments])
            record = replace(record, columns={**record.columns, **columns})
            yield self._example(record, kept, roles)

    def _of_tagged(self, records: Sequence[Record]) -> Iterator[Example]:
        for record, segment in tagged_segments(records, self.tokenizer, self.cut, self.counts, self.bad):
            yield self._example(record, (segment,), {"completion": 0})

    def _with_fim(self, records: Sequence[Record], encoded: Sequence[Encoding]) -> list[Encoding]:
        """The encoded documents, the chosen ones among them rearranged where that fits a segment."""
        cut, names = self.cut, tuple(self.tokenizer.special_ids)
        assert cut.fim is not None
        texts = [str(record.sides[0].completion) for record in records]
        # What was rendered has its order already, and what shows an image keeps it where it is.
        free = [
            i
            for i, text in enumerate(texts)
            if not records[i].pictures
            and (cut.rendered == "text" or not (is_rendered(text) or Edges.of("", text).found))
        ]
        chosen = [i for i in free if fim.is_chosen(texts[i], records[i].row.file, cut.fim)]
        spans = (fim.spans_of(texts[i], cut.fim) for i in chosen)
        moved = encode_many(self.tokenizer, [with_specials(one, names, cut.special_tokens)[0] for one in spans])
        result = list(encoded)
        for i, document in zip(chosen, moved, strict=True):
            fits = len(document[0]) <= cut.max_length
            self.counts["fim_documents" if fits else "fim_too_long"] += 1
            result[i] = document if fits else result[i]
        return result
