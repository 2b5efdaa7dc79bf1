"""Reading files: every format gives the same rows; every broken file is named with its line."""

from __future__ import annotations

import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxpo.data.rows.formats import content_hash, list_files, read_rows
from jaxpo.errors import DataError

ROWS = [{"text": "one"}, {"text": "zwei ü"}, {"text": "three", "label": 1}]


def write_all(folder):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "c.json").write_text(json.dumps(ROWS))
    table = pa.Table.from_pylist(ROWS, schema=pa.schema([("text", pa.string()), ("label", pa.int64())]))
    pq.write_table(table, folder / "d.parquet")
    with pa.ipc.new_stream(folder / "e.arrow", table.schema) as stream:
        stream.write_table(table)


def test_every_format_gives_the_same_rows(tmp_path):
    write_all(tmp_path)
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet", "e.arrow"):
        rows = list(read_rows([tmp_path / name]))
        assert [row.data for row in rows] == ROWS, name
        assert [row.number for row in rows] == [1, 2, 3]


def test_text_files_and_folders(tmp_path):
    write_all(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.txt").write_text("a whole document\n\nin one file\n")
    (tmp_path / "README.md").write_text("notes are no data")
    (tmp_path / "dataset_info.json").write_text("{}")
    files = list_files([tmp_path])
    assert [f.name for f in files] == ["a.jsonl", "b.jsonl.gz", "c.json", "d.parquet", "e.arrow", "z.txt"]
    rows = list(read_rows([tmp_path]))
    assert len(rows) == 16
    assert rows[-1].data == {"text": "a whole document\n\nin one file\n"}


def test_blank_lines_keep_line_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n')
    assert [row.number for row in read_rows([tmp_path / "a.jsonl"])] == [1, 3]


def test_content_hash_sees_contents_not_names(tmp_path):
    for name, text in (("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (content_hash([tmp_path / name]) for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


def bad(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=match) as error:
        list(read_rows([path]))
    assert name in str(error.value)


def test_broken_line_is_named(tmp_path):
    bad(tmp_path, "a.jsonl", '{"text": "x"}\n{"text": \n', r"a.jsonl, row 2: line 2 is not valid JSON: .* column 9")
    bad(tmp_path, "b.jsonl", '{"text": "x"}\n[1, 2]\n', r"row 2: expected a JSON object with columns, found list")
    bad(tmp_path, "c.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"row 2: line 2 is not UTF-8")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.parquet", "a.arrow"])
def test_empty_file(tmp_path, name):
    bad(tmp_path, name, "", r"the file holds no rows\. Remove it from the list or fill it")


def test_damaged_containers(tmp_path):
    whole = gzip.compress(b'{"text": "' + b"xyz" * 1000 + b'"}\n')
    bad(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2], r"cannot be read: .*Copy the file again")
    bad(tmp_path, "b.jsonl.gz", "not gzip at all", r"cannot be read: Not a gzipped file")
    bad(tmp_path, "c.parquet", "PAR1 but not really", r"not a readable Parquet file")
    bad(tmp_path, "d.arrow", "nothing like arrow", r"not a readable Arrow stream")
    bad(tmp_path, "e.json", '{"text": "x"}\n{"text": "y"}\n', r"not valid JSON: .*Name it \.jsonl")
    bad(tmp_path, "f.json", '{"text": "x"}', r"must hold a list of objects")
    bad(tmp_path, "g.txt", b"\xff\xfe", r"not UTF-8")


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.bin", "a.npz"])
def test_pickles_are_refused_unread(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    bad(tmp_path, name, pickle.dumps(Bomb()), r"may hold pickles, which run code when read; they are refused")
    assert not (tmp_path / "exploded").exists()


def test_unknown_suffix_missing_file_empty_folder(tmp_path):
    bad(tmp_path, "a.csv", "x", r"unknown file type '\.csv'\. Accepted: \.jsonl")
    with pytest.raises(DataError, match=r"absent.jsonl: no such file or folder\. Check the path"):
        list_files([tmp_path / "absent.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no data file"):
        list_files([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"no data files are named"):
        list_files([])
