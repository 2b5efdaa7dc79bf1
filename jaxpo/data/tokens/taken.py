"""Ids that came with a row, held against the tokenizer that they are taken to be of."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from jaxpo.data.chat.chat import Span
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.tokenised import IDS, TAKEN, UNLIKE, Tokens
from jaxpo.data.tokenizer.tokenizer import Tokenizer


def check_ids(record: Record, tokens: Tokens, tokenizer: Tokenizer, counts: Counter[str]) -> None:
    """Count the row, and whether this tokenizer would have made its ids; DataError for an id that it has not."""
    if max(tokens.ids) >= tokenizer.vocab_size:
        raise record.row.error(
            f"token {max(tokens.ids)} is none of the tokenizer's {tokenizer.vocab_size}.",
            field=IDS,
            remedy="Give the tokenizer that the rows were made with, or their text.",
        )
    counts[TAKEN] += 1
    counts[UNLIKE] += not is_own_encoding(tokenizer, tokens.ids)


def is_own_encoding(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether a tokenizer gives these ids for the text between their special tokens."""
    special = set(tokenizer.special_ids.values())
    groups = [list(group) for control, group in itertools.groupby(ids, lambda i: i in special) if not control]
    again = tokenizer.encode_batch([tokenizer.decode(group, skip_special_tokens=False) for group in groups])
    return all(list(a) == b for a, b in zip(again, groups, strict=True))


def shown(tokens: Tokens, tokenizer: Tokenizer | None) -> list[Span]:
    """The ids as text to look at; without a tokenizer, as numbers."""
    pieces = tokenizer.pieces(tokens.ids) if tokenizer else [f"{i} " for i in tokens.ids]
    return [Span(piece, flag) for piece, flag in zip(pieces, tokens.flags, strict=True)]
