"""Queries and documents as the tokens of a retriever, exactly pylate's: prefixes, expansion, lengths, skipped words."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.config.data import Texts
from jaxpo.data.rows.rows import Record
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.per_token import KEY, SCORED
from jaxpo.errors import ConfigError, did_you_mean

DOCUMENT = "document"
"""Column: a number for the text of each listed document, by which a batch knows the same one again."""


@dataclass(frozen=True)
class Encoded:
    """A query or document in tokens, int32 `[n]`, and which of them attention sees and scores compare, bool `[n]`."""

    tokens: np.ndarray
    key: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True)
class TextEncoder:
    """Makes tokens of texts; see `text_encoder`.

    Attributes:
      prefixes: ids of the two, None where there is none.
      skipped: ids whose rows of a document are not scored.
      unskippable: words that are no token of the vocabulary.
    """

    tokenizer: Tokenizer
    texts: Texts
    prefixes: tuple[int | None, int | None]
    skipped: np.ndarray
    unskippable: tuple[str, ...] = ()

    def queries(self, texts: Sequence[str]) -> list[Encoded]:
        """Queries; filled up to their length where they are expanded."""
        settings = self.texts
        found = self._ids([settings.query_text + text for text in texts], self.prefixes[0], settings.query_length)
        return [self._expanded(ids) if settings.expansion else _whole(ids) for ids in found]

    def documents(self, texts: Sequence[str]) -> list[Encoded]:
        """Documents; the skipped words in them are read, and not scored."""
        settings = self.texts
        whole = [settings.document_text + text for text in texts]
        found = self._ids(whole, self.prefixes[1], settings.document_length)
        return [Encoded(ids, np.ones(len(ids), bool), ~np.isin(ids, self.skipped)) for ids in found]

    def _ids(self, texts: Sequence[str], prefix: int | None, length: int) -> list[np.ndarray]:
        """BOS, the prefix, and as much of each text as there is room for."""
        start = np.asarray([self.tokenizer.bos_id, *([] if prefix is None else [prefix])], np.int32)
        return [np.concatenate([start, ids.astype(np.int32)])[:length] for ids in self.tokenizer.encode_batch(texts)]

    def _expanded(self, ids: np.ndarray) -> Encoded:
        length = self.texts.query_length
        tokens = np.full(length, self.tokenizer.eos_id, np.int32)
        tokens[: len(ids)] = ids
        key = np.arange(length) < (length if self.texts.attend_to_expansion else len(ids))
        return Encoded(tokens, key, np.ones(length, bool))


def _whole(ids: np.ndarray) -> Encoded:
    every = np.ones(len(ids), bool)
    return Encoded(ids, every, every)


def text_encoder(tokenizer: Tokenizer, texts: Texts, say: Callable[[str], None] = lambda line: None) -> TextEncoder:
    """What makes tokens of texts by these settings.

    Args:
      say: told which words cannot be skipped.

    Raises:
      ConfigError: the vocabulary lacks a prefix, or a length leaves no room.
    """
    problems, prefixes = [], []
    for name, prefix, length in (
        ("query", texts.query_prefix, texts.query_length),
        ("document", texts.document_prefix, texts.document_length),
    ):
        found = tokenizer.id_of(prefix) if prefix else None
        prefixes.append(found)
        if prefix and found is None:
            problems.append(
                f"texts.{name}_prefix is {prefix!r}, which is no token of the vocabulary"
                f"{did_you_mean(prefix, tokenizer.special_ids)}; add it with --tokenizer.added {prefix!r}, or set it "
                'to "".'
            )
        if length < 3:
            problems.append(f"texts.{name}_length is {length}; it must be at least 3: BOS, a prefix and a token.")
    if problems:
        raise ConfigError(problems)
    ids = {word: tokenizer.encode(word) for word in texts.skip}
    lost = tuple(word for word, found in ids.items() if len(found) != 1)
    if lost:
        say(f"warning: {len(lost)} words of texts.skip are no single token and are scored: {' '.join(lost[:5])}")
    skipped = np.asarray(sorted({found[0] for found in ids.values() if len(found) == 1}), np.int32)
    return TextEncoder(tokenizer, texts, (prefixes[0], prefixes[1]), skipped, lost)


def retrieval_segments(
    records: Sequence[Record], encoder: TextEncoder, counts: Counter[str]
) -> Iterator[tuple[Record, list[Encoded], dict[str, Any]]]:
    """The tokens of each record, query first, and the columns that they have besides.

    Args:
      counts: updated: full_queries and full_documents, which reach their length or were cut to it.
    """
    queries = encoder.queries([str(record.sides[0].completion) for record in records])
    flat = [str(side.completion) for record in records for side in record.sides[1:]]
    documents = iter(encoder.documents(flat))
    texts, end = encoder.texts, encoder.tokenizer.eos_id
    for record, query in zip(records, queries, strict=True):
        own = [next(documents) for _ in record.sides[1:]]
        counts["full_queries"] += int(len(query.tokens) >= texts.query_length and query.tokens[-1] != end)
        counts["full_documents"] += sum(len(each.tokens) >= texts.document_length for each in own)
        yield record, [query, *own], {DOCUMENT: [_number(str(side.completion)) for side in record.sides[1:]]}


def _number(text: str) -> int:
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def columns_of(encoded: Encoded) -> dict[str, np.ndarray]:
    """The per-token columns of a segment."""
    return {KEY: encoded.key.astype(np.int8), SCORED: encoded.scored.astype(np.int8)}
