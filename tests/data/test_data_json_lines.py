"""Files of JSON lines are complete or absent; of those that grow, only whole lines are read."""

import json

import pytest

from jaxpo.data.rows.json_lines import pending, whole_lines, write_jsonl
from jaxpo.errors import DataError


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    with pytest.raises(TypeError), pending(tmp_path / "x.jsonl") as file:
        file.writelines(["half", None])
    assert not list(tmp_path.iterdir())
    with pending(tmp_path / "x.npz", "wb") as file:
        file.write(b"all")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_nothing_is_left_of_rows_that_cannot_be_written(tmp_path):
    for value, said in ((float("nan"), "a number that is not finite"), (b"image", "what JSON has no form for")):
        with pytest.raises(DataError, match=rf"new row 2 holds {said}.*Correct the row"):
            write_jsonl(tmp_path / "x.jsonl", [{"a": 1}, {"a": value}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "é\u2029", "a\rb", "a\x0cb"])
def test_a_line_ends_where_json_lines_end(tmp_path, text):
    """Characters that end a line for `str.splitlines` may stand in a JSON text."""
    path = tmp_path / "x.jsonl"
    assert write_jsonl(path, [{"text": text}, {"text": text}]) == 2
    assert [json.loads(line)["text"] for line in whole_lines(path)] == [text, text]


def test_a_torn_end_is_cut_off_where_that_is_allowed(tmp_path):
    path = tmp_path / "x.jsonl"
    assert whole_lines(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert whole_lines(path, repair=False) == [b'{"a": 1}']
    assert path.read_bytes().endswith(b'{"a": ')
    assert whole_lines(path) == [b'{"a": 1}']
    assert path.read_bytes() == b'{"a": 1}\n'
