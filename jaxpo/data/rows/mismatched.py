"""Mismatched rows for KTO: every prompt together with a response that was given to another one."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.sides import Side

AHEAD = 64
"""Rows that are looked through for a response to another prompt."""


def with_mismatched(records: Iterable[Record]) -> Iterator[Record]:
    """Add to every unpaired row a side "kl": its own prompt with the response of a later row.

    The response is that of the next row, the file read as a ring, whose prompt and text are both different; among
    `AHEAD` rows, else the next whose text is different, else the next. Which one depends on the file alone, not on how
    rows are batched, so that the statistic is the same under accumulation and sharding.

    Raises:
      DataError: the file has a single row, or no other row whose texts have the same form.
    """
    source = iter(records)
    first = list(itertools.islice(source, AHEAD + 1))
    if len(first) <= AHEAD:
        for i, record in enumerate(first):
            yield _paired(record, first[i + 1 :] + first[:i])
        return
    window = deque(first)
    for record in itertools.chain(source, first[:AHEAD]):
        yield _paired(window.popleft(), window)
        window.append(record)
    yield _paired(window.popleft(), window)


def _paired(record: Record, others: Sequence[Record] | deque[Record]) -> Record:
    """The record with the response of one of the others, which are listed from the nearest on."""
    own = record.sides[0]
    usable = [other.sides[0] for other in others if type(other.sides[0].completion) is type(own.completion)]
    different = [side for side in usable if side.completion != own.completion]
    elsewhere = (side for side in different if side.prompt != own.prompt)
    chosen = next(elsewhere, None) or next(iter(different), None) or next(iter(usable), None)
    if chosen is None:
        raise record.row.error(
            "there is no other row: the KL term pairs each prompt with the response of another row.",
            field="completion",
            remedy="Give at least two rows, all with texts of one form (strings, or messages).",
        )
    return replace(record, sides=(*record.sides, Side("kl", own.prompt, chosen.completion)))
