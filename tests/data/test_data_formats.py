"""Reading files: every format gives the same rows; every broken file is named with its line."""

from __future__ import annotations

import datetime
import decimal
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.written import COMPRESSED, as_arrow, as_parquet

from jaxpo.data.rows.columns import _CHECKS
from jaxpo.data.rows.files.tables import NUMBERS, STRUCTURED
from jaxpo.data.rows.formats import content_hash, list_files, read_rows
from jaxpo.data.rows.marks import SOURCES
from jaxpo.data.rows.rows import TYPES
from jaxpo.data.rows.segments import FURTHER
from jaxpo.data.rows.tokenised import BESIDE
from jaxpo.errors import DataError

ROWS = [{"text": "one"}, {"text": "zwei ü"}, {"text": "three", "label": 1}]


TABLE = pa.Table.from_pylist(ROWS, schema=pa.schema([("text", pa.string()), ("label", pa.int64())]))
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


FORMS = {
    "jsonl": LINES.encode(),
    "ndjson": LINES.encode(),
    "json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": LINES.encode(),
    "csv": 'text,label\none,\n"zwei ü",\nthree,1\n'.encode(),
    "tsv": "text\tlabel\none\t\nzwei ü\t\nthree\t1\n".encode(),
    "parquet": as_parquet(TABLE),
    "stream.arrow": as_arrow(TABLE, pa.ipc.new_stream),
    "file.arrow": as_arrow(TABLE, pa.ipc.new_file),
}


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_rows(tmp_path, form, compression):
    path = tmp_path / f"a.{form}{compression}"
    path.write_bytes(COMPRESSED[compression](FORMS[form]))
    rows = list(read_rows([path]))
    assert [row.data for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_text_file_is_one_document(tmp_path, compression):
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESSED[compression](b"a whole document\r\n\r\nin one file\r\n"))
    assert [row.data for row in read_rows([path])] == [{"text": "a whole document\n\nin one file\n"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, name, encoding):
    content = {"a.jsonl": LINES, "a.json": json.dumps(ROWS), "a.csv": FORMS["csv"].decode(), "a.txt": "zwei ü\n"}[name]
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / name).write_bytes((mark + content).encode(encoding))
    rows = [row.data for row in read_rows([tmp_path / name])]
    assert rows == ([{"text": "zwei ü\n"}] if name == "a.txt" else ROWS)


def test_joined_files_may_keep_their_marks(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(2 * LINES.encode("utf-8-sig"))
    assert [row.data for row in read_rows([tmp_path / "a.jsonl"])] == 2 * ROWS


def test_json_needs_no_mark_to_be_known_as_utf_16(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES.encode("utf-16-le"))
    assert [row.data for row in read_rows([tmp_path / "a.jsonl"])] == ROWS


def test_a_json_list_is_read_in_pieces(tmp_path, monkeypatch):
    rows = [{"text": "wörd " * n, "nested": {"list": [n, {"a": "]}"}]}} for n in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False))
    for size in (1, 7, 64):
        monkeypatch.setattr("jaxpo.data.rows.files.json_list.CHUNK", size)
        assert [row.data for row in read_rows([tmp_path / "a.json"])] == rows


def test_cells_of_a_table_are_text_but_for_numbers_and_lists(tmp_path):
    (tmp_path / "a.csv").write_text(
        "prompt,completion,label,weight,tools,note\n"
        '007,"true, ""yes""\nand more",true,0.5,"[{""a"": 1}]",\n,x,0,,,1.50\n'
    )
    assert [row.data for row in read_rows([tmp_path / "a.csv"])] == [
        {
            "prompt": "007",
            "completion": 'true, "yes"\nand more',
            "label": True,
            "weight": 0.5,
            "tools": [{"a": 1}],
            "note": "",
        },
        {"prompt": "", "completion": "x", "label": 0, "note": "1.50"},
    ]


TEXTS = {"text", "prompt", "completion", "chosen", "rejected", "gold", "prompt_chosen", "prompt_rejected", "annotator"}
TEXTS |= {"user", "group", "calibration", "query", "positive"}
TEXTS |= {"rationale", "rationale_prompt", "inter_prompt", "separator"}
# Lists, which a table cannot hold; in tables columns of these names are texts of other kinds.
TEXTS |= {"words", "tags", "spans"}


def test_tables_know_which_columns_are_no_text():
    """A column that a dataset type gets is one of the three to a cell that has no type of its own."""
    lists = (*TYPES.values(), BESIDE, *FURTHER.values(), *SOURCES.values())
    assert {*_CHECKS, "separator", *(name for names in lists for name in names)} - {*NUMBERS, *STRUCTURED} == TEXTS


def test_values_of_parquet_become_what_json_has(tmp_path):
    day = datetime.datetime(2024, 2, 3, 4, 5, 6)
    table = pa.table(
        {
            "margin": [decimal.Decimal("1.50")],
            "count": pa.array([decimal.Decimal(7)], pa.decimal128(5, 0)),
            "when": pa.array([1], pa.timestamp("ns")),
            "day": [day.date()],
            "nested": [[{"at": day, "price": decimal.Decimal("0.25"), "text": b"bytes"}]],
            "half": pa.array([1.5], pa.float16()),
            "text": ["zwei ü".encode()],
            "image": [b"\x89PNG\x00"],
            "rewards": pa.array([[("a", [1.0, 2.0])]], pa.map_(pa.string(), pa.list_(pa.float64()))),
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = read_rows([tmp_path / "a.parquet"])
    assert row.data == {
        "margin": 1.5,
        "count": 7,
        "when": "1970-01-01 00:00:00.000000001",
        "day": "2024-02-03",
        "nested": [{"at": "2024-02-03 04:05:06", "price": 0.25, "text": "bytes"}],
        "half": 1.5,
        "text": "zwei ü",
        "image": b"\x89PNG\x00",
        "rewards": {"a": [1.0, 2.0]},
        "kind": "x",
    }
    assert type(row.data["count"]) is int


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
    bad(tmp_path, "c.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"row 2, field 'text': not UTF-8: byte 0xff .*iconv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.parquet", "a.arrow", "a.jsonl.zst"])
def test_empty_file(tmp_path, name):
    bad(tmp_path, name, "", r"the file holds no rows\. Remove it from the list or fill it")


def test_damaged_containers(tmp_path):
    content = LINES.encode() * 100
    for compression, compress in list(COMPRESSED.items())[1:]:
        whole = compress(content)
        bad(tmp_path, f"a.jsonl{compression}", whole[: len(whole) // 2], r"cannot be read: .*Copy the file again")
        bad(tmp_path, f"b.jsonl{compression}", "not compressed at all", r"cannot be read: ")
        bad(tmp_path, "hidden.jsonl", whole, rf"compressed \({compression}\), .*Name it hidden.jsonl{compression}")
    bad(
        tmp_path,
        "a.txt",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        r"a pointer of Git LFS.*git lfs pull",
    )
    bad(tmp_path, "c.parquet", "PAR1 but not really", r"not a readable Parquet file")
    bad(tmp_path, "d.arrow", "nothing like arrow", r"not a readable Arrow stream")
    bad(tmp_path, "g.txt", b"a\nb\xff", r"line 2: not UTF-8: byte 0xff .*'ÿ'.*iconv")
    bad(tmp_path, "h.txt", "text".encode("utf-16-le"), r"NUL characters: it is UTF-16 without a mark")
    bad(tmp_path, "i.jsonl", b"\xff\xfe{\x00\x00\xd8", r"not valid UTF-16-LE, which its first bytes say it is")


def test_broken_lists(tmp_path):
    bad(tmp_path, "a.json", '[{"text": "x"}\n{"text": "y"}]', r"row 2: ',' is missing before this row")
    bad(tmp_path, "b.json", '[{"text": "x"}', r"row 1: the list is not closed")
    bad(tmp_path, "c.json", '[{"text": "x"}] []', r"something stands behind the end of the list")
    bad(tmp_path, "d.json", '[{"text": "x"}, ]', r"row 2: not valid JSON: Expecting value")
    bad(tmp_path, "e.json", '[{"text": "x"}, {"text": "y', r"row 2: not valid JSON: Unterminated string")
    bad(tmp_path, "f.json", '["x"]', r"row 1: expected a JSON object with columns, found str")
    bad(tmp_path, "g.json", '{"text": "x"}\n{"text" "y"}\n', r"row 2: not valid JSON")


def test_broken_tables(tmp_path):
    bad(tmp_path, "a.csv", "text,label\nx\n", r"row 1: 1 cells under 2 columns")
    bad(tmp_path, "b.csv", 'text\n"x"y\n', r"row 1: not a valid table")
    bad(tmp_path, "c.csv", 'text\nfine\n"never closed\n', r"row 2: not a valid table")
    bad(tmp_path, "d.csv", "prompt;completion\nx;y\n", r"separated by ';'")
    bad(tmp_path, "e.csv", "text,text\nx,y\n", r"field 'text': column 'text' stands twice")
    bad(tmp_path, "f.csv", "prompt,margin\nx,much\n", r"row 1, field 'margin': expected a number, found 'much'")
    bad(tmp_path, "g.csv", b"text\nna\xefve\n", r"row 1, field 'text': not UTF-8: byte 0xef")
    bad(tmp_path, "h.csv", """messages\n"[{'role': 'user'}]"\n""", r"row 1, field 'messages': expected JSON")


ODD = {
    "deep": ("[" * 100_000, r"nested more than 100 levels"),
    "deep and valid": ('{"text": ' + "[" * 300 + "]" * 300 + "}", r"nested more than 100 levels"),
    "long number": ('{"text": "x", "margin": ' + "9" * 5000 + "}", r"No number may have thousands of digits"),
    "half a pair": (r'{"text": "a \ud83d b"}', r"field 'text': half a surrogate pair, '\\ud83d'"),
    "inside": (r'{"messages": [{"content": ["\udc00"]}]}', r"field 'messages': messages\[0\].content\[0\]: half"),
    "in a name": (r'{"te\ud83dxt": "a"}', r"half a surrogate pair"),
    "twice": ('{"text": "a", "text": "b"}', r"field 'text': the key stands twice"),
}


@pytest.mark.parametrize("form", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_named(tmp_path, name, form):
    content, match = ODD[name]
    bad(tmp_path, form, '{"text": "fine"}\n' + content + "\n", rf"row 2.*{match}")


def test_whole_pairs_and_escapes_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "\ud83d\ude00 \\ud83d \u00e9"}' + "\n")
    assert [row.data["text"] for row in read_rows([tmp_path / "a.jsonl"])] == ["😀 \\ud83d é"]


def test_values_that_python_cannot_hold_are_named(tmp_path):
    table = pa.table({"text": ["a", "b"], "took": pa.array([1000, 1], pa.duration("ns"))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 2, field 'took': the value cannot be read"):
        list(read_rows([tmp_path / "a.parquet"]))


def test_times_of_unknown_zones_are_named(tmp_path):
    table = pa.table({"text": ["a"], "when": pa.array([0], pa.timestamp("us", tz="Nowhere/At_All"))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 1, field 'when': the value cannot be read"):
        list(read_rows([tmp_path / "a.parquet"]))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(LINES)

    def refuse(*args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"a.jsonl: cannot be read: Permission denied"):
        list(read_rows([tmp_path / "a.jsonl"]))


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.bin", "a.npz"])
def test_pickles_are_refused_unread(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    bad(tmp_path, name, pickle.dumps(Bomb()), r"may hold pickles, which run code when read; they are refused")
    assert not (tmp_path / "exploded").exists()


def test_unknown_suffix_missing_file_empty_folder(tmp_path):
    bad(tmp_path, "a.docx", "x", r"unknown file type '\.docx'\. Accepted: \.jsonl")
    bad(tmp_path, "b.gz", "x", r"unknown file type '\.gz'\. Accepted: \.jsonl")
    with pytest.raises(DataError, match=r"absent.jsonl: no such file or folder\. Check the path"):
        list_files([tmp_path / "absent.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no data file"):
        list_files([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"no data files are named"):
        list_files([])
