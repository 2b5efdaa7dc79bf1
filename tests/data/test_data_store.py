"""The token cache is reused, rebuilt when damaged, and never half there; per-token columns can be resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.tokens.store import Lengths, open_or_write
from jaxpo.errors import DataError


def cache(tmp_path):
    (folder,) = [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]
    return folder


def test_second_call_reads_the_cache(prepared, files, tmp_path):
    lines: list[str] = []
    first = prepared(files / "text.jsonl", "language", log=lines.append)
    assert lines[0] == "tokenising 1 file(s) of type 'text'"
    stamp = (cache(tmp_path) / "meta.json").stat().st_mtime_ns
    lines.clear()
    second = prepared(files / "text.jsonl", "language", log=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("4 examples of type 'text'")
    assert (cache(tmp_path) / "meta.json").stat().st_mtime_ns == stamp
    assert first.hash == second.hash
    assert first.counts == second.counts


def test_settings_and_contents_change_the_key(prepared, files, write):
    base = prepared(files / "prompt_completion.jsonl")
    hashes = {
        base.hash,
        prepared(files / "prompt_completion.jsonl", max_length=32).hash,
        prepared(files / "prompt_completion.jsonl", truncation="drop").hash,
        prepared(files / "prompt_completion.jsonl", train_on="all").hash,
        prepared(write({"prompt": "a", "completion": "b"})).hash,
    }
    assert len(hashes) == 5
    assert prepared(files / "prompt_completion.jsonl", shuffle=False, block_rows=2).hash == base.hash


@pytest.mark.parametrize("damage", ["truncate", "foreign", "no meta", "broken meta", "other key", "no index"])
def test_damaged_cache_is_rebuilt_and_says_so(prepared, files, tmp_path, damage):
    before = prepared(files / "text.jsonl", "language").store.read(range(4))
    folder = cache(tmp_path)
    records, meta = folder / "examples.array_record", folder / "meta.json"
    if damage == "truncate":
        records.write_bytes(records.read_bytes()[:-100])
    elif damage == "foreign":
        records.write_bytes(b"x" * records.stat().st_size)
    elif damage == "no meta":
        meta.unlink()
    elif damage == "broken meta":
        meta.write_text("{")
    elif damage == "other key":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": "other"}))
    else:
        (folder / "lengths.npz").unlink()
    lines: list[str] = []
    again = prepared(files / "text.jsonl", "language", log=lines.append)
    assert f"data cache {folder.name} is damaged (" in lines[0]
    assert "building it again" in lines[0]
    for a, b in zip(before, again.store.read(range(4)), strict=True):
        assert np.array_equal(a.segments[0].tokens, b.segments[0].tokens)


def test_damage_inside_a_record_is_found_when_read(prepared, files, tmp_path):
    prepared(files / "text.jsonl", "language")
    records = cache(tmp_path) / "examples.array_record"
    content = bytearray(records.read_bytes())
    content[150] ^= 0xFF  # in the first record
    records.write_bytes(bytes(content))
    damaged = prepared(files / "text.jsonl", "language")
    with pytest.raises(DataError, match=r"examples.array_record: cannot be read: .*Delete its folder"):
        damaged.store.read(range(4))


def test_failed_write_leaves_nothing(tmp_path):
    def fail(writer):
        raise DataError("row 7 is bad")

    with pytest.raises(DataError, match="row 7 is bad"):
        open_or_write(tmp_path / "store", "key", fail, print)
    assert list(tmp_path.iterdir()) == []


def test_random_access_in_any_order(prepared, files):
    data = prepared(files / "messages.jsonl", max_length=128)
    forward = data.store.read(range(len(data)))
    order = [3, 0, 3, 6]
    for i, example in zip(order, data.store.read(order), strict=True):
        assert example.row == i + 1
        assert np.array_equal(example.segments[0].tokens, forward[i].segments[0].tokens)
        assert np.array_equal(example.segments[0].supervised, forward[i].segments[0].supervised)
        assert data.lengths.of(i).tolist() == [len(s.tokens) for s in example.segments]
    assert data.store.read([]) == []


LENGTHS = Lengths.from_lists([[3, 2], [4], [1, 5]])


def fill(column, examples):
    for e in examples:
        for s, n in enumerate(LENGTHS.of(e)):
            column.write(e, s, np.arange(n) + 10 * e + 100 * s)


def test_ragged_column_is_filled_bit_by_bit(tmp_path):
    column = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    assert column.missing().tolist() == [0, 1, 2]
    fill(column, [1])
    column.write(2, 1, np.zeros(5))
    column.flush()
    del column
    resumed = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    assert resumed.missing().tolist() == [0, 2]
    assert not resumed.complete()
    assert resumed.get(1, 0).tolist() == [10, 11, 12, 13]
    with pytest.raises(DataError, match=r"example 2, segment 0 has no values yet"):
        resumed.get(2, 0)
    fill(resumed, [0, 2])
    resumed.flush()
    assert resumed.complete()
    opened = RaggedColumn.open(tmp_path / "c", LENGTHS, "key")
    assert opened.get(2, 1).tolist() == [120, 121, 122, 123, 124]
    assert opened.get(0, 1).tolist() == [100, 101]
    assert opened.get(0, 1).dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        opened.write(0, 0, np.zeros(3))


def test_ragged_column_of_another_run_is_refused(tmp_path):
    column = RaggedColumn.create(tmp_path / "c", LENGTHS, "key")
    with pytest.raises(ValueError, match="example 0, segment 1 has 2 tokens, not 3"):
        column.write(0, 1, np.zeros(3))
    for lengths, key in ((LENGTHS, "other"), (Lengths.from_lists([[3, 2], [4], [1, 6]]), "key")):
        with pytest.raises(DataError, match=r"c: these per-token values belong to another model.*Delete the folder"):
            RaggedColumn.create(tmp_path / "c", lengths, key)
    with pytest.raises(DataError, match=r"belong to another"):
        RaggedColumn.open(tmp_path / "absent", LENGTHS, "key")
    (tmp_path / "c" / "values.f32").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"values.f32: 4 bytes instead of 60: the file is truncated"):
        RaggedColumn.open(tmp_path / "c", LENGTHS, "key")
