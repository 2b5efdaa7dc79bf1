"""The dataset contract (TRL's, and a few columns more): detect a row's type, check its values, normalise it.

| type | columns |
|---|---|
| text | text |
| messages | messages (or ShareGPT's conversations with from / value) |
| tokens | input_ids [, labels, or masks such as assistant_masks] |
| prompt | prompt |
| prompt_completion | prompt, completion (or alpaca's instruction, input, output) |
| preference | [prompt,] chosen, rejected |
| triple | prompt, chosen, rejected, gold |
| two_prompt | prompt_chosen, prompt_rejected, chosen, rejected |
| steps | prompt, completions, labels [, separator] |
| rated | prompt, [completion,] ratings |
| unpaired | prompt, completion, label |
| list | prompt, responses, scores |
| tree | prompt, steps, scores |
| items | prompt, items, relevance [, separator] |
| query_positive | query, positive [, negatives] |
| query_documents | query, documents, scores |
| tagged | words, tags |
| tagged_text | text, spans |

Texts are strings or lists of messages. `system`, `history` and `tools` beside them make a row a conversation.
Without a prompt column a pair's prompt is the common start of both sides.
`docs/data.md` shows a row of each, and the columns that some methods need besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from jaxpo.data.rows.columns import extra_columns
from jaxpo.data.rows.context import asks, gives_context, with_context
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.marks import SOURCES, SPANS
from jaxpo.data.rows.pictures import COLUMN as PICTURES
from jaxpo.data.rows.pictures import MARK, with_pictures
from jaxpo.data.rows.retrieval import NEGATIVES, canonical_retrieval
from jaxpo.data.rows.segments import COLUMN_OF, FURTHER, further_side, lacks, with_spans
from jaxpo.data.rows.sides import SIDES, Side
from jaxpo.data.rows.stringified import with_parsed_messages
from jaxpo.data.rows.tagged import canonical_tagged
from jaxpo.data.rows.texts import string
from jaxpo.data.rows.tokenised import BESIDE
from jaxpo.data.rows.tools import tools_of
from jaxpo.data.rows.unread import check_pictures, check_refused, unread

__all__ = ["TYPES", "Record", "Side", "canonical", "detect", "read_record"]

# In the order of detection: the first type whose columns are all there.
TYPES: dict[str, tuple[str, ...]] = {
    "query_documents": ("query", "documents", "scores"),
    "query_positive": ("query", "positive"),
    "two_prompt": ("prompt_chosen", "prompt_rejected", "chosen", "rejected"),
    "triple": ("prompt", "chosen", "rejected", "gold"),
    "tree": ("prompt", "steps", "scores"),
    "items": ("prompt", "items", "relevance"),
    "list": ("prompt", "responses", "scores"),
    "preference": ("chosen", "rejected"),
    "steps": ("prompt", "completions", "labels"),
    "rated": ("prompt", "ratings"),
    "unpaired": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "tagged": ("words", "tags"),
    "tagged_text": ("text", "spans"),
    "text": ("text",),
    "tokens": ("input_ids",),
    "prompt": ("prompt",),
}
PAIRS = ("preference", "triple", "two_prompt")
# A row with one of these is no bare prompt but a row that lacks something.
_ANSWERS = {name for required in TYPES.values() for name in required} - {"prompt", "words", "tags", "spans"}
# Columns that rows of a type may have besides, without which they are of that type too.
_BESIDE = {
    "preference": ("prompt",),
    "items": ("separator",),
    "steps": ("separator",),
    "rated": ("completion",),
    "tokens": BESIDE,
    "query_positive": (NEGATIVES,),
}
_ALIASES = {"conversations": "messages", "conversation": "messages"}


@dataclass(frozen=True)
class Record:
    """A checked row: its sides in the order of its segments, and its columns of numbers.

    Attributes:
      absent: optional roles that this row has no text for.
      unread: the names under which what nobody reads of the row is counted.
      pictures: its images, as they were given, in the order of the marks in its texts.
    """

    row: Row
    kind: str
    sides: tuple[Side, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()
    absent: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    pictures: tuple[Any, ...] = ()

    @property
    def is_conversation(self) -> bool:
        """Whether its texts are messages."""
        return _is_conversation(self.sides)


def detect(row: Row) -> str:
    """The dataset type of a row, from its columns; DataError lists what was found and what is accepted."""
    columns = set(canonical(row).data)
    for kind, required in TYPES.items():
        if columns.issuperset(required) and not (kind == "prompt" and columns & _ANSWERS):
            return kind
    started = {kind: set(names) - columns for kind, names in TYPES.items() if columns & (set(names) - {"prompt"})}
    if started:
        # Of equally near types the one with more columns there, then the plainer one, which is tried later.
        nearest = min(reversed(started), key=lambda kind: (len(started[kind]), len(started[kind]) - len(TYPES[kind])))
        missing = next(name for name in TYPES[nearest] if name not in columns)
        raise row.error(f"type {nearest!r} lacks column {missing!r}.", field=missing, remedy=_accepted())
    raise row.error(f"no dataset type has columns {sorted(columns)}.", remedy=_accepted())


def canonical(row: Row) -> Row:
    """Rename the columns of other formats (ShareGPT, alpaca) to the contract's, and make turns of those before them."""
    data = dict(row.data)
    for other, name in _ALIASES.items():
        if other in data and name not in data:
            data[name] = data.pop(other)
    data = with_pictures(row, canonical_tagged(canonical_retrieval(with_parsed_messages(row, data))))
    if asks(data):
        data["prompt"] = data.pop("messages")
    context = gives_context(row)
    if "instruction" in data and "output" in data and "prompt" not in data:
        instruction = string(row, "instruction", data.pop("instruction"))
        given = data.pop("input", "")
        question = instruction + (f"\n\n{string(row, 'input', given)}" if given else "")
        data["prompt"] = question if context else question + "\n\n"
        data["completion"] = data.pop("output")
    named = Row(row.file, row.number, data)
    return with_context(named) if context else named


def read_record(
    row: Row,
    kind: str,
    *,
    extras: tuple[str, ...] = (),
    roles: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    marks: tuple[str, ...] = (),
    pictures: bool = False,
) -> Record:
    """Check and normalise one row.

    Args:
      row: as read.
      kind: the dataset's type; a row without its columns is an error.
      extras: optional columns that every row must have ("margin", "scores", ...).
      roles: segments beyond the type's own that every row must have ("rationale", ...); of pairs.
      optional: the same, but a row may lack them.
      marks: names of the marks to keep ("phrase", "step", ...).
      pictures: the row is read for a model that sees; for others one with images is an error.

    Raises:
      DataError: names file, row, field and remedy.
    """
    row = canonical(row)
    for name in (*TYPES[kind], *extras):
        if name not in row.data:
            raise row.error(
                f"column {name!r} is missing; the file's other rows have it.",
                field=name,
                remedy="Every row needs the same columns; add it or remove the row.",
            )
    check_refused(row, masks=kind != "tokens")
    shown = tuple(row.data.get(PICTURES, ()))
    if shown:
        check_pictures(row, kind, seen=pictures)
    sides = SIDES[kind](row)
    if shown:
        _check_answers(row, kind, sides)
    for name in marks:
        if name in SPANS:
            sides = with_spans(row, sides, name)
    if "tag" not in marks:
        sides = tuple(replace(side, words=()) if side.words else side for side in sides)
    if any(side.marks for side in sides) and not marks:
        sides = tuple(replace(side, marks=()) for side in sides)
    absent = tuple(role for role in optional if lacks(row, role))
    asked = (*roles, *(role for role in optional if role not in absent))
    sides += tuple(further_side(row, sides, role) for role in asked)
    numbers = tuple(dict.fromkeys((*extras, *(COLUMN_OF[role] for role in asked if role in COLUMN_OF))))
    columns = extra_columns(row, numbers)
    # Rows that lack a role have 0 in its column, so that the column has an entry for every example.
    columns |= {COLUMN_OF[role]: 0 for role in absent if role in COLUMN_OF}
    besides = ("tools",) * _is_conversation(sides) + (PICTURES,) * bool(shown)
    # Beside a bare prompt stands what rewards read.
    beside = () if kind == "prompt" else unread(row, _columns_read(kind, (*numbers, *besides), asked, marks))
    return Record(row, kind, sides, columns, tools_of(row), absent, beside, shown)


@lru_cache(maxsize=64)
def _columns_read(
    kind: str, columns: tuple[str, ...], roles: tuple[str, ...], marks: tuple[str, ...]
) -> frozenset[str]:
    """The columns that a row of a type is read from; asked of every row, and the same for nearly all of a file."""
    further = (name for role in roles for name in FURTHER[role])
    marked = (name for mark in marks for name in SOURCES[mark])
    return frozenset((*TYPES[kind], *_BESIDE.get(kind, ()), *columns, *further, *marked))


def _check_answers(row: Row, kind: str, sides: tuple[Side, ...]) -> None:
    """DataError for an image in an answer: it would have to be learnt."""
    for side in sides:
        said = side.completion if isinstance(side.completion, list) else [{"content": side.completion}]
        answers = [turn["content"] for turn in said if turn.get("role", "assistant") == "assistant"]
        if kind != "text" and any(MARK in text for text in answers):
            remedy = "Show it in a user turn: images are given, not answered."
            raise row.error("an image stands in an answer.", field=side.role, remedy=remedy)


def _is_conversation(sides: tuple[Side, ...]) -> bool:
    return any(isinstance(text, list) for side in sides for text in (side.prompt, side.completion))


def _accepted() -> str:
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in TYPES.items())
    return f"Rename columns to one of: {listed}."
