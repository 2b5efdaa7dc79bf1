"""What a method asks of the data, checked against the first row before anything is tokenised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jaxpo.data.rows.columns import REMEDIES, extra_columns, found
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.marks import SOURCES, SPANS
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.retrieval import RETRIEVAL
from jaxpo.data.rows.rows import PAIRS, TYPES, Record, canonical, detect, read_record
from jaxpo.data.rows.segments import COLUMN_OF, FURTHER
from jaxpo.data.rows.tagged import TAGGED
from jaxpo.errors import DataError

Purpose = Literal["language", "sft", "preference", "prompts"]

# Segment roles each dataset type offers, and the column a missing role would come from.
ROLES = {
    "text": ("text",),
    "tokens": ("completion",),
    "messages": ("completion",),
    "prompt_completion": ("completion",),
    "preference": ("chosen", "rejected"),
    "triple": ("chosen", "rejected", "gold"),
    "two_prompt": ("chosen", "rejected"),
    "unpaired": ("completion", "kl"),
    "list": ("candidate",),
    "tree": ("candidate",),
    "items": ("items",),
    "rated": ("completion",),
    "steps": ("completion",),
    "prompt": (),
    **dict.fromkeys(RETRIEVAL, ("query", "candidate")),
    **dict.fromkeys(TAGGED, ("completion",)),
}
MARKS = (
    dict.fromkeys(PAIRS, SPANS)
    | {"tree": ("step",), "items": ("item",), "steps": ("step_end",)}
    | dict.fromkeys(TAGGED, ("tag",))
)
_COLUMN_OF_ROLE = {"candidate": "responses", "kl": "label", "text": "text"}
SINGLE = ("text", "messages", "prompt_completion", "tokens")
PAIRED = ("preference", "triple")
LEARNT = (
    "text",
    "messages",
    "input_ids",
    "completion",
    "chosen",
    "rejected",
    "responses",
    "steps",
    "items",
    "completions",
    "query",
    "positive",
    "documents",
    "words",
)
"""Columns without which there is nothing to learn from a row."""
REFERENCE_COLUMNS = (
    *("ref_chosen_logps", "ref_rejected_logps", "reference_chosen_logps", "reference_rejected_logps", "ref_logps"),
)


@dataclass(frozen=True)
class Reading:
    """What is read of every row, decided once.

    Attributes:
      kind: the dataset type as it is used ("unpaired" for pairs that are taken apart).
      columns: optional columns that every row must have.
      roles, optional: further segments that every row must, or may, have.
      marks: names of the marks that become per-token columns.
      first: the row that all this was decided by.
      pictures: rows with images are read for a model that sees.
    """

    kind: str
    columns: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    first: Row | None = None
    pictures: bool = False

    def check_alike(self, row: Row) -> None:
        """DataError for a row with something that the first lacked, by which it would be read otherwise.

        The first row alone decides what is read, so a column that is null or absent there must be so in every row.
        """
        if self.first is None or row.data.keys() <= self.first.data.keys():
            return
        row = canonical(row)
        for name in found(row, self.kind):
            if name not in self.columns:
                raise self.first.error(
                    f"column {name!r} is missing or null; {row.file}, row {row.number}, has it.",
                    field=name,
                    remedy="Fill it in every row, or leave it out of all.",
                )
        first = detect(self.first)
        if first == "rated" and "completion" in row.data and "completion" not in canonical(self.first).data:
            remedy = "Rate answers in one file, and prompts by themselves in another."
            raise row.error("there is a completion, which the first row lacks.", field="completion", remedy=remedy)
        # A row that lacks columns is refused when it is read.
        kinds = {first, detect(row)} if row.data.keys() >= set(TYPES[first]) else {first}
        if self.kind == "text":
            kinds = {"text" if kind in TAGGED else kind for kind in kinds}
        if len(kinds) > 1 and not kinds <= set(PAIRED):
            raise row.error(
                f"is of type {detect(row)!r}; the first row ({self.first.file}, row {self.first.number}) of {first!r}.",
                remedy="Give every row the same columns, or each type a stage of its own.",
            )

    def check_filled(self, row: Row) -> None:
        """EmptyRow for a row that holds nothing, or nothing of what is learnt from the file's other rows."""
        if not row.data:
            raise row.empty("the row holds nothing.")
        if self.first is None or not row.data.keys() < self.first.data.keys():
            return
        there = canonical(row).data
        kind = "text" if self.kind == "text" else detect(self.first)
        # The answer of rated rows: without one a row rates its prompt.
        beside = ("completion",) if kind == "rated" and "completion" in canonical(self.first).data else ()
        for name in (*TYPES[kind], *beside):
            if name in LEARNT and name not in there:
                raise row.empty(f"column {name!r} is missing or null; the file's other rows have it.", field=name)

    def record(self, row: Row) -> Record:
        """Check and normalise one row; DataError names file, row, field and remedy."""
        self.check_filled(row)
        return read_record(
            row,
            self.kind,
            extras=self.columns,
            roles=self.roles,
            optional=self.optional,
            marks=self.marks,
            pictures=self.pictures,
        )


def check_needs(row: Row, purpose: Purpose, needs: Needs) -> Reading:
    """Match the first row with what the method needs.

    Raises:
      DataError: names the first missing column, the file, the row and the remedy.
    """
    given, row = row, canonical(row)
    if purpose == "prompts":
        return _prompts(given, row, detect(row))
    kind = _used_as(row, purpose, needs)
    _check_kind(row, kind, purpose, needs)
    if kind in PAIRED and "completion" in needs.roles and "label" in needs.columns:
        columns = tuple(name for name in needs.columns if name != "label")
        _require(row, kind, columns)
        return Reading("unpaired", tuple(dict.fromkeys(("label", *found(row, "unpaired"), *columns))), first=given)
    if kind == "triple" and "gold" in needs.optional_roles:
        kind = "preference"
    _check_marks(row, kind, needs, ("step", "item", "step_end", "tag"))
    further = tuple(role for role in needs.roles if role not in ROLES[kind])
    for role in further:
        if kind in SINGLE and role in ("text", "completion"):
            continue
        if role in FURTHER and kind in PAIRS:
            _require(row, kind, FURTHER[role])
            continue
        column = _COLUMN_OF_ROLE.get(role, role)
        raise _missing(row, kind, column, REMEDIES.get(column, f"The method needs {', '.join(needs.roles)}."))
    _check_marks(row, kind, needs, SPANS)
    # A column that belongs to an optional role is there exactly when the role is.
    conditional = {COLUMN_OF[role] for role in needs.optional_roles if role in COLUMN_OF}
    columns = tuple(name for name in needs.columns if name not in conditional)
    _require(row, kind, columns)
    return Reading(
        kind,
        tuple(dict.fromkeys((*found(row, kind), *columns))),
        tuple(role for role in further if role in FURTHER),
        tuple(role for role in needs.optional_roles if role in FURTHER and kind in PAIRS),
        _marks(needs),
        given,
    )


def _prompts(given: Row, row: Row, kind: str) -> Reading:
    """Of whatever type, the rows' prompts alone."""
    if "prompt" not in row.data:
        raise row.error(
            f"rows of type {kind!r} give no prompt to be answered.",
            field="prompt",
            remedy="Give a column `prompt`, a string or messages; of conversations, all turns before the answer.",
        )
    return Reading("prompt", first=given)


def _used_as(row: Row, purpose: Purpose, needs: Needs) -> str:
    """The type of the rows; answers with ratings, and texts whose words have classes, are plain ones to others."""
    kind = detect(row)
    plain = "tag" not in needs.per_token and (needs.roles or purpose != "preference")
    if kind in TAGGED and "text" in row.data and plain:
        return "text"
    asked = purpose == "preference" and (not needs.roles or "ratings" in needs.columns)
    if kind != "rated" or asked or "completion" not in row.data:
        return kind
    return detect(replace(row, data={name: value for name, value in row.data.items() if name != "ratings"}))


def _check_kind(row: Row, kind: str, purpose: Purpose, needs: Needs) -> None:
    """A stage of that purpose trains on rows of this type at all."""
    if purpose != "preference" and kind not in SINGLE:
        raise row.error(
            f"a {purpose} stage cannot train on rows of type {kind!r}.",
            field="completion" if "completion" not in row.data else "label",
            remedy="Give rows with text, messages, or prompt + completion (rename `chosen` to `completion`).",
        )
    if needs.roles and (kind in RETRIEVAL) != ("query" in needs.roles):
        raise row.error(
            f"rows of type {kind!r} are {'for' if kind in RETRIEVAL else 'nothing for'} retrieval.",
            field="query",
            remedy="A Retrieval stage reads query and positive, or query, documents and scores; others do not.",
        )
    if kind == "prompt":
        raise row.error(
            "there is only a prompt: nothing to train on.",
            field=_first_column(needs),
            remedy="Add completion, or chosen and rejected, or responses and scores.",
        )


def everything(row: Row) -> Reading:
    """All that rows like this one are known to hold, for looking at a file without a method in mind."""
    given, row = row, canonical(row)
    kind = detect(row)
    optional = tuple(role for role in FURTHER if role not in ROLES[kind]) if kind in PAIRS else ()
    marks = tuple(name for name in MARKS.get(kind, ()) if any(column in row.data for column in SOURCES[name]))
    return Reading(kind, found(row, kind), (), optional, marks, given, pictures=True)


def takes_pairs_apart(row: Row, kind: str) -> bool:
    """True when rows hold pairs but are used as two unpaired rows each."""
    return kind == "unpaired" and detect(row) in PAIRED


def take_apart(row: Row, *, pictures: bool = False) -> tuple[Row, Row]:
    """A pair as a good and a bad row: prompt + completion + label (TRL's unpairing).

    Raises:
      DataError: the pair is tied, so that neither is.
    """
    if row.data.get("tie"):
        raise row.error("the pair is tied: neither response is the bad one.", field="tie", remedy="Remove tied rows.")
    record = read_record(row, "preference", pictures=pictures)
    pair_only = ("prompt", "chosen", "rejected", "gold", "label", "rewards")
    rest = {k: v for k, v in record.row.data.items() if k not in pair_only}
    rewards = extra_columns(record.row, ("rewards",)).get("rewards", {}) if "rewards" in record.row.data else {}
    good, bad = (
        Row(
            row.file,
            row.number,
            {**rest, "prompt": side.prompt, "completion": side.completion, "label": label}
            | ({"rewards": {name: both[i] for name, both in rewards.items()}} if rewards else {}),
        )
        for i, (side, label) in enumerate(zip(record.sides, (True, False), strict=True))
    )
    return good, bad


def ignored_reference(row: Row, needs: Needs) -> str | None:
    """A sentence on reference log-probs that the data brings along and nobody reads; None when there are none."""
    columns = [name for name in REFERENCE_COLUMNS if name in row.data]
    if not columns:
        return None
    names = f"column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
    if needs.kind("reference") == "none":
        return f"warning: {row.file}: {names} not used: the method has no reference model."
    return (
        f"warning: {row.file}: {names} ignored: reference log-probs are computed anew from the reference model, per "
        "token and on the tokens that are trained on, which sums from elsewhere need not match."
    )


def absent_everywhere(needs: Needs, seen: set[str]) -> str | None:
    """The column to name when a method reads optional segments and no row has any; None when that is not so.

    Gold responses are left out: the chosen one takes the place of a missing one.
    """
    wanted = [role for role in needs.optional_roles if role != "gold"]
    return None if not wanted or seen & set(wanted) else FURTHER[wanted[0]][0]


def _first_column(needs: Needs) -> str:
    """The column beside the prompt that a method's first segment comes from."""
    for name in _marks(needs):
        if name not in SPANS:
            return SOURCES[name][0]
    return _COLUMN_OF_ROLE.get(needs.roles[0], needs.roles[0]) if needs.roles else "completion"


def _marks(needs: Needs) -> tuple[str, ...]:
    """The per-token columns that are marked in rows."""
    return tuple(name for name in needs.per_token if name in SOURCES)


def _check_marks(row: Row, kind: str, needs: Needs, among: tuple[str, ...]) -> None:
    for name in (name for name in needs.per_token if name in among):
        if name in MARKS.get(kind, ()):
            _require(row, kind, SOURCES[name] if name in SPANS else ())
        else:
            column = SOURCES[name][0]
            raise _missing(row, kind, column, f"The method needs the {name} that each token belongs to.")


def _require(row: Row, kind: str, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in row.data:
            raise _missing(row, kind, name, REMEDIES.get(name, f"Add a column {name!r} to every row."))


def _missing(row: Row, kind: str, column: str, remedy: str) -> DataError:
    return row.error(f"column {column!r} is missing (these rows are of type {kind!r}).", field=column, remedy=remedy)
