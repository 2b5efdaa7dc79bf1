"""What the first row lacks is never dropped for the file; numbers fit float32; empty rows are refused or counted."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxpo.data.rows.columns import _CHECKS, NAMES, OPTIONAL, extra_columns
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.tokens.inspect import inspect
from jaxpo.errors import DataError

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
LIST = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0]}
BASE = {
    "preference": PAIR,
    "triple": {**PAIR, "gold": "best"},
    "two_prompt": {"prompt_chosen": "p", "prompt_rejected": "q", "chosen": "good", "rejected": "bad"},
    "unpaired": {"prompt": "p", "completion": "c", "label": True},
    "list": LIST,
    "tree": {"prompt": "p", "steps": [["a"], ["b"]], "scores": [1, 0]},
}
VALUES = {"margin": 0.5, "annotator": "ann", "rewards": {"r": [1, 0]}, "votes": [2, 1], "weight": 0.5}
VALUES |= {"user": "u", "group": 3, "tie": False, "responsibilities": {"g": 1}, "smoothing": 0.25}
OPTIONAL_ONES = [(kind, name) for kind, row in BASE.items() for name in OPTIONAL[kind] if name not in row]


def as_file(tmp_path, rows, form):
    """The same rows as JSON lines with nulls, without the keys, or as Parquet, which always has nulls."""
    names = dict.fromkeys(name for row in rows for name in row)
    full = rows if form == "absent" else [{name: row.get(name) for name in names} for row in rows]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(full), tmp_path / "rows.parquet")
        return tmp_path / "rows.parquet"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in full))
    return path


@pytest.mark.parametrize("form", ["null", "absent", "parquet"])
@pytest.mark.parametrize(("kind", "column"), OPTIONAL_ONES)
def test_a_column_that_the_first_row_lacks(tmp_path, kind, column, form):
    row = BASE[kind]
    path = as_file(tmp_path, [row, row, {**row, column: VALUES[column]}], form)
    match = rf"rows.\w+, row 1, field '{column}': column '{column}' is missing or null; .*row 3, has it\. Fill it"
    with pytest.raises(DataError, match=match):
        inspect(path)


@pytest.mark.parametrize("at", [0, 1])
def test_a_column_that_some_row_lacks_stops_training(prepared, write, at):
    rows = [{**PAIR, "chosen": f"good {i}", "margin": 1.0} for i in range(2)]
    rows[at]["margin"] = None
    with pytest.raises(DataError, match=rf"row {at + 1}, field 'margin': column 'margin' is missing"):
        prepared(write(*rows), "preference")


def test_a_column_of_one_file_alone(tmp_path, write):
    with_margin = write({**PAIR, "margin": 1.0}, name="b.jsonl")
    write(PAIR, name="a.jsonl")
    with pytest.raises(DataError, match=r"a.jsonl, row 1, field 'margin': .*b.jsonl, row 1, has it"):
        inspect(with_margin.parent)


@pytest.mark.parametrize(("first", "later"), [
    ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "bad", "label": False}),
    ({"text": "x"}, {"text": "x", "prompt": "p", "completion": "c"}),
    (LIST, {**LIST, "steps": [["a"], ["b"]]}),
    (PAIR, {**PAIR, "prompt_chosen": "p", "prompt_rejected": "q"}),
])  # fmt: skip
def test_a_column_that_makes_another_type(write, first, later):
    with pytest.raises(DataError, match=r"row 3: is of type '\w+'; the first row \(.*rows.jsonl, row 1\) of '\w+'"):
        inspect(write(first, {**first}, later))


def test_gold_and_other_columns_may_come_and_go(write):
    assert (
        inspect(write(PAIR, {**PAIR, "gold": "best", "rationale": "r", "rationale_prompt": "q", "note": 1})).rows == 2
    )


def test_all_columns_of_the_file_are_shown(write):
    report = inspect(write({"text": "a"}, {"text": "b", "source": "wiki"}))
    assert report.columns == {"text": "str, 'a'", "source": "str, 'wiki'"}


FORMS = {
    "rewards": lambda x: {"r": x},
    "votes": lambda x: [x, 1.0],
    "scores": lambda x: [0.5, x],
    "relevance": lambda x: [1, x],
    "ratings": lambda x: {"a": 1, "b": x},
    "responsibilities": lambda x: {"g": x},
    "labels": lambda x: [True, x],
}
NUMBERS = [name for name in _CHECKS if name not in (*NAMES, "label", "tie", "inter_sign")]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_float32_are_refused(tmp_path, name):
    for value in (1e300, -1e300, 10**400, 3.5e38, 1e-60, 1e-40, math.inf, -math.inf, math.nan):
        row = Row(tmp_path / "a.jsonl", 7, {name: FORMS.get(name, lambda x: x)(value)})
        with pytest.raises(DataError, match=rf"row 7, field '{name}': .*(outside the range of float32|not finite)"):
            extra_columns(row, (name,))


def test_numbers_inside_it_are_kept(tmp_path):
    for value in (0, 0.0, 1, -3.4e38, 1.2e-38, 2**100):
        assert extra_columns(Row(tmp_path, 1, {"margin": value}), ("margin",)) == {"margin": float(value)}


@pytest.mark.parametrize("written", ["1e300", "1e400", "-1e400", "NaN", "Infinity", "9" * 400])
def test_such_a_number_in_a_file_names_its_row(tmp_path, write, prepared, written):
    path = write({**PAIR, "margin": 1.0})
    path.write_text(path.read_text() + path.read_text().replace("1.0", written))
    with pytest.raises(DataError, match=r"rows.jsonl, row 2, field 'margin'"):
        prepared(path, "preference")


CHAT = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
EMPTY = {
    "text": ({"text": "x y"}, {"text": ""}),
    "nothing": ({"text": "x y"}, {}),
    "nulls": ({"text": "x y"}, {"text": None}),
    "completion": ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": ""}),
    "messages": ({"messages": CHAT}, {"messages": []}),
    "chosen": (PAIR, {**PAIR, "chosen": ""}),
    "rejected": (PAIR, {**PAIR, "rejected": ""}),
    "null text": ({"text": "x y", "id": 1}, {"text": None, "id": 2}),
    "null completion": ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": None}),
    "null messages": ({"messages": CHAT, "id": 1}, {"messages": None, "id": 2}),
    "null chosen": (PAIR, {**PAIR, "chosen": None}),
    "empty answer": ({"messages": CHAT}, {"messages": [CHAT[0], {"role": "assistant", "content": ""}]}),
    "null answer": ({"messages": CHAT}, {"messages": [CHAT[0], {"role": "assistant", "content": None}]}),
    "empty chosen": ({"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "b"}]},
        {"chosen": [CHAT[0], {"role": "assistant", "content": ""}], "rejected": CHAT}),
}  # fmt: skip


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", EMPTY)
def test_empty_rows(prepared, write, name, place):
    rows = [EMPTY[name][0]] * 2
    rows.insert(place, EMPTY[name][1])
    path = write(*rows)
    purpose = {"text": "language", "nothing": "language", "nulls": "language", "chosen": "preference"}
    purpose = purpose.get(name, "preference" if name.endswith(("rejected", "chosen")) else "sft")
    with pytest.raises(DataError, match=rf"row {place + 1}.*leaves them out with `--data.on-empty skip`"):
        prepared(path, purpose)
    said = []
    dataset = prepared(path, purpose, on_empty="skip", log=said.append)
    assert dataset.counts["dropped_empty"] == 1
    assert (dataset.counts["read"], dataset.counts["kept"]) == (3, 2)
    assert "dropped_empty 1" in said[-1]
    report = inspect(path)
    assert report.rows == 2
    assert f"1 empty row(s), at which a stage stops unless it is told to skip them; {path}, row {place + 1}" in str(
        report
    )


def test_a_row_with_its_text_under_another_name_is_not_empty(prepared, write):
    with pytest.raises(DataError, match=r"row 2, field 'completion': column 'completion' is missing"):
        prepared(write({"prompt": "p", "completion": "c"}, {"prompt": "p", "response": "c"}), on_empty="skip")


def test_pairs_taken_apart_are_skipped_whole(prepared, write):
    settings = {"roles": ("completion",), "columns": ("label",), "on_empty": "skip"}
    dataset = prepared(write(PAIR, {**PAIR, "chosen": ""}), "preference", **settings)
    assert (len(dataset), dataset.counts["dropped_empty"]) == (2, 1)
    dataset = prepared(write({**PAIR, "chosen": None}, PAIR), "preference", **settings)
    assert (len(dataset), dataset.counts["dropped_empty"]) == (2, 1)


def test_a_file_of_empty_rows_is_no_data(prepared, write):
    with pytest.raises(DataError, match=r"every row is empty"):
        prepared(write({}, {"text": None}), "language", on_empty="skip")
    with pytest.raises(DataError, match=r"no example is left"):
        prepared(write({"text": ""}, name="b.jsonl"), "language", on_empty="skip")


def test_what_is_skipped_is_another_data_set(prepared, write):
    path = write({"text": "a b"})
    assert prepared(path, "language").hash != prepared(path, "language", on_empty="skip").hash


def test_other_errors_stop_all_the_same(prepared, write):
    with pytest.raises(DataError, match=r"row 2, field 'text': expected a string"):
        prepared(write({"text": "x"}, {"text": 3}), "language", on_empty="skip")


def test_rows_are_counted_from_the_file(write):
    assert [row.number for row in read_rows([write({"text": "a"}, {}, {"text": "b"})])] == [1, 2, 3]
