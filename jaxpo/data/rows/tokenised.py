"""Rows that another program has tokenised: ids, and masks over them that say which are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.data.rows.formats import Row

IDS, LABELS, PADDING = "input_ids", "labels", "attention_mask"
MASKS = (
    *("assistant_masks", "assistant_mask", "completion_mask", "completion_masks"),
    *("loss_mask", "loss_masks"),
)
"""1 where a token is trained on. Several together, as TRL writes them, train on what all of them mark."""
UNTRAINED = -100
TAKEN, UNLIKE = "rows_tokenised_before", "rows_tokenised_otherwise"
"""What is counted: rows whose ids are taken as they are; those of them that this tokenizer would not have made."""
BESIDE = (*MASKS, LABELS, PADDING)


@dataclass(frozen=True)
class Tokens:
    """Ids of a text, and which of them are trained on.

    Attributes:
      learnt: one flag per id; None = no mask was given, and all are.
    """

    ids: tuple[int, ...]
    learnt: tuple[bool, ...] | None = None

    @property
    def flags(self) -> tuple[bool, ...]:
        """Which ids are trained on."""
        return self.learnt or (True,) * len(self.ids)


def tokens_of(row: Row) -> Tokens:
    """The ids of a row without padding; DataError for ids or masks that do not belong together."""
    ids = _numbers(row, IDS)
    if not ids:
        raise row.empty("there are no tokens.", field=IDS)
    if "seq_lengths" in row.data or 0 in row.data.get("position_ids", ())[1:]:
        raise row.error(
            "several texts are packed into one row.",
            field="seq_lengths" if "seq_lengths" in row.data else "position_ids",
            remedy="Give each text a row of its own: they are packed here, with attention cut at their borders.",
        )
    masks = [*_masks(row, ids), *_labels(row, ids)]
    learnt = tuple(all(flags) for flags in zip(*masks, strict=True)) if masks else None
    kept = _flags(row, PADDING, ids) if PADDING in row.data else (True,) * len(ids)
    ids = tuple(token for token, keep in zip(ids, kept, strict=True) if keep)
    learnt = learnt and tuple(flag for flag, keep in zip(learnt, kept, strict=True) if keep)
    if not ids or (learnt is not None and not any(learnt[1:])):
        raise row.error(
            "no token behind the first is trained on.",
            field=next((name for name in BESIDE if name in row.data), IDS),
            remedy="Mark those to be learnt with 1 (in `labels`: any id but -100), or remove the row.",
        )
    return Tokens(ids, learnt)


def _masks(row: Row, ids: Sequence[int]) -> Iterator[tuple[bool, ...]]:
    yield from (_flags(row, name, ids) for name in MASKS if name in row.data)


def _labels(row: Row, ids: Sequence[int]) -> Iterator[tuple[bool, ...]]:
    if LABELS not in row.data:
        return
    labels = _aligned(row, LABELS, _numbers(row, LABELS, least=UNTRAINED), ids)
    if any(label not in (UNTRAINED, token) for label, token in zip(labels, ids, strict=True)):
        raise row.error(
            "a label is neither -100 nor the token's own id.",
            field=LABELS,
            remedy="Give labels that are not shifted: next-token targets are made here.",
        )
    yield tuple(label != UNTRAINED for label in labels)


def _flags(row: Row, name: str, ids: Sequence[int]) -> tuple[bool, ...]:
    flags = _aligned(row, name, _numbers(row, name), ids)
    if not set(flags) <= {0, 1}:
        raise row.error("a mask holds 0 and 1 only.", field=name, remedy="Tokens cannot be weighted; give 0 or 1.")
    return tuple(map(bool, flags))


def _aligned(row: Row, name: str, values: tuple[int, ...], ids: Sequence[int]) -> tuple[int, ...]:
    if len(values) != len(ids):
        raise row.error(
            f"there are {len(values)} values for {len(ids)} tokens.", field=name, remedy=f"Give one per id in {IDS}."
        )
    return values


def _numbers(row: Row, name: str, *, least: int = 0) -> tuple[int, ...]:
    values: Any = row.data[name]
    whole = isinstance(values, list) and all(isinstance(x, int) and x >= least for x in values)
    if not whole:
        raise row.error(
            f"expected a list of whole numbers, none below {least}.",
            field=name,
            remedy="Give one text per row, as a flat list.",
        )
    return tuple(map(int, values))
