"""Small files: on disk before they get their names, leftovers of killed processes, results that can be made again."""

import json
import os

import pytest

from jaxpo.data import durable
from jaxpo.data.durable import crc32_of, publish
from jaxpo.errors import DataError, RunError
from jaxpo.judges.ledger import Ledger
from jaxpo.train.files import read_derived, remove_leftovers, write_json
from jaxpo.train.rundir import RunDir


@pytest.fixture
def order(monkeypatch):
    """What was synced and renamed, in order."""
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def renamed(a, b, **named):
        events.append(("name", os.path.basename(b)))
        replace(a, b, **named)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return events


def test_content_is_on_disk_before_the_name_and_the_name_before_it_returns(tmp_path, order):
    write_json(tmp_path / "a.json", {"a": 1})
    (temporary, name), *rest = order
    assert (temporary, name.startswith(".a.json.")) == ("sync", True)
    assert rest == [("name", "a.json"), ("sync", tmp_path.name)]


def test_every_file_and_folder_of_a_tree_is_on_disk_before_its_name(tmp_path, order):
    (tmp_path / "t" / "in").mkdir(parents=True)
    for name in ("one", "in/two"):
        (tmp_path / "t" / name).write_text(name)
    publish(tmp_path / "t", tmp_path / "whole")
    assert order == [("sync", n) for n in ("two", "in", "one", "t")] + [("name", "whole"), ("sync", tmp_path.name)]


def test_the_checksum_is_that_of_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "BLOCK", 7)
    (tmp_path / "a").write_bytes(b"123456789")
    assert crc32_of(tmp_path / "a") == "cbf43926"  # the check value of CRC-32/ISO-HDLC


LEFT = (
    ".summary.json.4711.tmp",
    "stages/sft/.work.json.9.tmp",
    "data/0123456789abcdef/plan-0011-3.17.140.tmp",
    "stages/sft/reference/ab/meta.json.tmp",
    "stages/sft/teacher/ab/.part-00002.1234",
    "data/.0123456789abcdef.x_1y/examples.array_record",
    ".export.partial/model.safetensors",
)
STAYS = (
    "metrics.jsonl",
    "data/0123456789abcdef/meta.json",
    "stages/sft/notes.tmp",
    "stages/sft/checkpoints/.a.1.tmp",
    ".hidden",
    "stages/sft/teacher/ab/part-00002.array_record",
)


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path):
    for name in (*LEFT, *STAYS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(STAYS)
    assert not (tmp_path / "data" / ".0123456789abcdef.x_1y").exists()


def test_only_the_holder_of_the_lock_removes_leftovers(tmp_path):
    (tmp_path / "r").mkdir()
    left = tmp_path / "r" / ".config.json.1.tmp"
    with RunDir(tmp_path / "r"):
        left.write_text("of a run that is alive")
        with pytest.raises(RunError, match="in use"), RunDir(tmp_path / "r"):
            pass
        assert left.exists()
    with RunDir(tmp_path / "r"):
        assert not left.exists()


def test_a_lock_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "r" / "lock").mkdir(parents=True)
    with pytest.raises(RunError, match="lock is a folder where a run keeps its lock"), RunDir(tmp_path / "r"):
        pass


@pytest.mark.parametrize("text", ["", '{"a": ', "[1]"])
def test_damaged_results_are_kept_aside_and_begun_again(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    assert read_derived(tmp_path / "summary.json", primary=False) == ({}, None), "another process may be at it"
    assert read_derived(tmp_path / "summary.json") == ({}, tmp_path / "summary.json.damaged")
    assert (tmp_path / "summary.json.damaged").read_text() == text
    assert read_derived(tmp_path / "summary.json") == ({}, None)


def test_every_flipped_bit_of_a_ledger_names_its_line(tmp_path):
    ledger = Ledger(tmp_path, "scores", {"a": 1})
    records = [{"key": "é\u2028", "value": [1.5, None, True]}, {"key": "b", "failed": "no"}]
    ledger.append(records)
    assert ledger.read() == records
    whole = ledger.path.read_bytes()
    start = whole.index(b"\n") + 1
    end = whole.index(b"\n", start)
    for place in range(start, end):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        ledger.path.write_bytes(bytes(changed))
        with pytest.raises(DataError, match=r"row [23]: is not as it was written\. Remove the line"):
            ledger.read()
    old = [json.dumps({"settings": {"a": 1}}), json.dumps({"key": "of an earlier version", "value": 1})]
    ledger.path.write_text("\n".join(old) + "\n")
    assert ledger.read() == [{"key": "of an earlier version", "value": 1}]
