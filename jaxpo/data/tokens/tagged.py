"""Texts whose words have classes, in tokens: BOS, the text, and a column that says where words of a class are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.tagged import BEGINS, GOES_ON, Word
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.encoded import Segment
from jaxpo.data.tokens.marked import token_places
from jaxpo.data.tokens.rendering import Cut
from jaxpo.errors import DataError, did_you_mean

TAG = "tag"
"""Column: c + 1 at the first token of a word of class c, -(c + 1) at its further ones, 0 at all others."""
CUT, MERGED, LEFT_OUT = "truncated_words", "words_without_a_token", "dropped_no_word_left"
COUNTED = "words_of_class "


def tagged_segments(
    records: Sequence[Record], tokenizer: Tokenizer, cut: Cut, counts: Counter[str], bad: Callable[[DataError], None]
) -> Iterator[tuple[Record, Segment]]:
    """Each record's text in tokens; those of labelled words are supervised.

    Args:
      counts: updated: truncated_response (texts that were cut), truncated_words (what was cut off them),
        words_without_a_token (a token holds this word's start and another's), dropped_no_word_left, and how many words
        of each class are left.
      bad: receives the error of a row that cannot be used.
    """
    texts = [str(record.sides[0].completion) for record in records]
    for record, text, ids in zip(records, texts, tokenizer.encode_batch(texts), strict=True):
        words = record.sides[0].words
        try:
            numbers = [number_of(record.row, word, cut.classes) for word in words]
            tokens, column = laid(record.row, text, words, numbers, ids, tokenizer, counts)
            too_long = len(tokens) > cut.max_length
            kept = not too_long or cut.shortens(record.row, len(tokens), counts, ends=("response_right",))
        except DataError as error:
            bad(error)
            continue
        if not kept:
            continue
        counts["truncated_response"] += too_long
        counts[CUT] += int((column[cut.max_length :] > 0).sum())
        tokens, column = tokens[: cut.max_length], column[: cut.max_length]
        if not words:  # whoever reads the rows asks for no classes
            yield record, Segment(tokens, np.ones(len(tokens), bool))
            continue
        if not (column > 0).any():
            counts[LEFT_OUT] += 1
            continue
        for number in column[column > 0]:
            counts[f"{COUNTED}{cut.classes[number - 1]}"] += 1
        yield record, Segment(tokens, column != 0, {TAG: column})


def laid(
    row: Row,
    text: str,
    words: Sequence[Word],
    numbers: Sequence[int],
    ids: np.ndarray,
    tokenizer: Tokenizer,
    counts: Counter[str],
) -> tuple[np.ndarray, np.ndarray]:
    """BOS and the tokens of a text, and the column `TAG` of them.

    Args:
      numbers: of the words' classes, -1 = none.
      ids: the text's tokens.

    Raises:
      DataError: they do not spell the text; names file and row.
    """
    tokens = np.concatenate([[tokenizer.bos_id], ids]).astype(np.int32)
    column = np.zeros(len(tokens), np.int32)
    try:
        places = token_places(ids, text, [(word.start, word.end) for word in words], tokenizer)
    except DataError as error:
        raise row.placed(error) from error
    taken = 0
    for number, (first, last) in zip(numbers, places, strict=True):
        own = first >= taken
        counts[MERGED] += int(number >= 0 and not own)
        if number >= 0 and own:
            column[first + 1], column[first + 2 : last + 2] = number + 1, -(number + 1)
        taken = max(taken, last + 1)
    return tokens, column


def number_of(row: Row, word: Word, classes: Sequence[str]) -> int:
    """Place of a word's class among the classes, -1 where it has none.

    Raises:
      DataError: it is none of them; names file and row.
    """
    tag = word.tag
    if tag is None:
        return -1
    if str(tag) in classes:
        return classes.index(str(tag))
    if isinstance(tag, int) and tag < len(classes):
        return tag
    bare = str(tag).removeprefix(BEGINS).removeprefix(GOES_ON)
    if "spans" in row.data and bare in classes:
        return classes.index(bare)
    known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    raise row.error(
        f"the class {tag!r} is none of the {len(classes)} known: {known}.",
        field="spans" if "spans" in row.data else "tags",
        remedy=f"Name all of them in the setting `classes` of the loss.{did_you_mean(str(tag), classes)}",
    )


def unseen_classes(classes: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """The classes that no word of a data set has."""
    return [name for name in classes if not counts.get(f"{COUNTED}{name}")]
