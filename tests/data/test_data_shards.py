"""A data set in shards is the same however many work on it and however often they are stopped; bad rows are listed."""

import errno
import json
import threading
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from jaxpo.data.tokens import shards
from jaxpo.data.tokens.index import read_index, write_index
from jaxpo.data.tokens.store import _pack
from jaxpo.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that make a shard each."""
    monkeypatch.setattr(shards, "LEAST", 1)
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(5):
        rows = [{"text": f"document {j} of file {i}: " + "word " * (j % 7)} for j in range(11 + i)]
        (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Threads:
    """A team of threads, as of processes."""

    def __init__(self, index, count, barrier):
        self.index, self.count, self.barrier = index, count, barrier

    found: ClassVar[list] = []

    def first(self, do):
        found = [do()] if self.index == 0 else []
        self.barrier.wait()
        result = found[0] if found else do()
        self.barrier.wait()
        return result

    def by_first(self, do):
        if self.index == 0:
            self.found.append(do())
        self.barrier.wait()
        return self.found[-1]

    def every(self, do):
        do()
        self.barrier.wait()


def contents(dataset):
    held = [_pack(e) for e in dataset.store.read(range(len(dataset)))]
    return held, dataset.hash, dataset.counts, dataset.lengths.offsets.tolist(), dataset.lengths.values.tolist()


@pytest.fixture
def prepare(tokenizer, tmp_path):
    from jaxpo.config import Data
    from jaxpo.data.tokens import prepare as module

    def make(path, cache, log=lambda line: None, team=shards.ALONE, **data):
        settings = Data(max_length=16, row_length=16, **data)
        return module.prepare(
            [path],
            data=settings,
            tokenizer=tokenizer,
            purpose="language",
            cache_dir=tmp_path / cache,
            log=log,
            team=team,
        )

    return make


def test_any_number_of_workers_leaves_the_same(folder, prepare, tmp_path, monkeypatch):
    alone = prepare(folder, "alone")
    assert [len(list(alone.store.directory.glob("examples-*"))), (tmp_path / "alone/.shards").exists()] == [5, False]
    of_files = Counter(e.file for e in alone.store.read(range(len(alone))))
    assert alone.store.meta["examples_of_files"] == [of_files[i] for i in range(5)]
    barrier, found = threading.Barrier(3, timeout=60), {}

    def work(i):
        found[i] = prepare(folder, "three", team=Threads(i, 3, barrier))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert contents(found[i]) == contents(alone)
    monkeypatch.setattr(shards, "LEAST", 1 << 30)
    whole = prepare(folder, "whole")
    assert contents(whole) == contents(alone)
    assert whole.store.meta["examples_of_files"] == alone.store.meta["examples_of_files"]
    order = np.random.default_rng(0).permutation(len(whole))
    assert [e.row for e in alone.store.read(order)] == [e.row for e in whole.store.read(order)]


def test_one_looks_for_all_whether_a_store_is_whole(folder, prepare, monkeypatch):
    """A process that cannot read it neither deletes it under the others nor waits for them to write it again."""
    before, barrier, found, lines = prepare(folder, "cache"), threading.Barrier(2, timeout=20), {}, []
    whole = shards.check
    monkeypatch.setattr(
        shards, "check", lambda *args: "cannot" if threading.current_thread().name == "1" else whole(*args)
    )

    def work(i):
        found[i] = prepare(folder, "cache", log=lines.append, team=Threads(i, 2, barrier))

    threads = [threading.Thread(target=work, args=(i,), name=str(i)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [contents(found[i]) for i in range(2)] == [contents(before)] * 2
    assert not any("damaged" in line or "tokenising" in line for line in lines)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_what_cannot_be_read_now_is_not_deleted(folder, prepare, monkeypatch, number):
    before = prepare(folder, "cache")

    def fail(*args):
        raise OSError(number, "not now")

    monkeypatch.setattr("jaxpo.data.tokens.store.crc32_of", fail)
    with pytest.raises(OSError, match="not now"):
        prepare(folder, "cache")
    assert (before.store.directory / "meta.json").is_file()


def test_finished_shards_outlive_a_kill_and_a_mended_file(folder, prepare, tmp_path):
    good = (folder / "3.jsonl").read_text()
    (folder / "3.jsonl").write_text(good + '{"text": 7}\n')
    with pytest.raises(DataError, match=r"3.jsonl, row 15"):
        prepare(folder, "cache")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache/.shards").rglob("meta.json")}
    assert len(kept) == 3
    (folder / "3.jsonl").write_text(good)
    lines = []
    mended = prepare(folder, "cache", log=lines.append)
    assert "3 of 5 shards are tokenised already" in lines
    assert [line for line in lines if line.startswith("tokenising")] == [
        f"tokenising shard {n} of 5 of type 'text'" for n in (4, 5)
    ]
    assert contents(mended) == contents(prepare(folder, "afresh"))


def test_a_damaged_shard_is_written_again(folder, prepare):
    before = prepare(folder, "cache")
    part = next(before.store.directory.glob("examples-00002*"))
    part.write_bytes(part.read_bytes()[:-100])
    lines = []
    assert contents(prepare(folder, "cache", log=lines.append)) == contents(before)
    assert "is damaged (" in lines[0]


def test_bad_rows_are_left_out_counted_and_listed(folder, prepare):
    clean = prepare(folder, "clean")
    text = (folder / "1.jsonl").read_text().splitlines()
    (folder / "1.jsonl").write_text(
        "\n".join(["{", *text[:5], '["no row"]', '{"text": 3}', *text[5:], '{"x": 1}']) + "\n"
    )
    with pytest.raises(DataError, match=r"1.jsonl, row 1: line 1 is not valid JSON"):
        prepare(folder, "strict")
    lines = []
    left = prepare(folder, "skipped", log=lines.append, on_bad_row="skip")
    assert left.counts["read"] == clean.counts["read"] + 4
    assert left.counts["dropped_bad_rows"] == 4
    assert [(row["file"], row["row"]) for row in left.store.meta["bad_rows"]] == [(1, 1), (1, 7), (1, 8), (1, 15 + 1)]
    assert sum("left out: " in line for line in lines) == 3
    tokens = [[e.segments[0].tokens.tolist() for e in d.store.read(range(len(d)))] for d in (left, clean)]
    assert tokens[0] == tokens[1]
    with pytest.raises(DataError, match=r"4 rows cannot be used, and data.max_bad_rows is 3"):
        prepare(folder, "skipped", on_bad_row="skip", max_bad_rows=3)
    with pytest.raises(
        DataError, match=r"3 rows cannot be used, and data.max_bad_rows is 2.* The last: .*1.jsonl, row 8"
    ):
        prepare(folder, "fewer", on_bad_row="skip", max_bad_rows=2)


def test_what_can_be_skipped_is_a_row(folder, prepare):
    """A file that cannot be read at all, or a table that is cut off, is never left out."""
    (folder / "0.jsonl").write_text("")
    with pytest.raises(DataError, match=r"0.jsonl: the file holds no rows"):
        prepare(folder, "cache", on_bad_row="skip")


def test_large_indices_are_mapped_and_checked(tmp_path, monkeypatch):
    from jaxpo.data.tokens import index

    values, file = np.arange(1000, dtype=np.int32), tmp_path / "lengths.npz"
    write_index(file, {"offsets": (np.int64, 1001, [np.arange(1001)]), "values": (np.int32, 1000, [values])})
    with np.load(file) as plain:
        assert plain["values"].tolist() == values.tolist()
    monkeypatch.setattr(index, "MAPPED_FROM", 1)
    mapped = read_index(file)
    assert isinstance(mapped["values"], np.memmap)
    assert (mapped["values"].tolist(), mapped["offsets"].tolist()) == (values.tolist(), list(range(1001)))
    content = bytearray(file.read_bytes())
    content[-2000] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises((ValueError, OSError)):
        read_index(file)
