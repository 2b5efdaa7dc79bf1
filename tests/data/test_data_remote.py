"""Remote files: copied once and whole, again when the original changed; a missing library is named with its extra."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from jaxpo.config.places import is_path
from jaxpo.data.rows.files import remote
from jaxpo.data.rows.formats import list_files
from jaxpo.errors import ConfigError, DataError

ROW = '{"text": "one"}\n'


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/a.jsonl", ROW.encode())
    fs.pipe("/bucket/set/train.jsonl", ROW.encode())
    fs.pipe("/bucket/set/deep/test.jsonl", ROW.encode())
    fs.pipe("/bucket/set/weights.bin", b"x")
    yield fs
    fs.store.clear()


def fetched(tmp_path, *urls):
    lines = []
    remote.fetch(urls, tmp_path, lines.append)
    return lines


def test_a_file_is_copied_once_and_again_when_it_changed(memory, tmp_path):
    url = "memory://bucket/a.jsonl"
    place = remote.place_of(url, tmp_path)
    assert fetched(tmp_path, url, "local.jsonl") == [f"copying memory:///bucket/a.jsonl ({len(ROW)} bytes)"]
    assert place.read_text() == ROW
    assert fetched(tmp_path, url) == []
    memory.pipe("/bucket/a.jsonl", b'{"text": "two"}\n')
    assert len(fetched(tmp_path, url)) == 1
    assert json.loads(place.read_text()) == {"text": "two"}
    place.unlink()
    assert len(fetched(tmp_path, url)) == 1


def test_addresses_that_differ_in_their_query_are_different_files(tmp_path):
    """Else the second copy would take the place of the first, and be trained on twice."""
    one, two, bare = (remote.place_of(f"https://h/d/rows.jsonl{q}", tmp_path) for q in ("?part=1", "?part=2", ""))
    assert len({one, two, bare}) == 3
    assert bare == tmp_path / "remote/https/h/d/rows.jsonl"
    assert {place.name for place in (one, two)} == {"rows.jsonl"}


def test_a_folder_is_its_data_files(memory, tmp_path):
    url = "memory://bucket/set"
    assert len(fetched(tmp_path, url)) == 2
    place, said = remote.place_of(url, tmp_path), []
    assert list_files([place], say=said.append) == [place / "train.jsonl"]
    assert list_files([place], part="eval", say=said.append) == [place / "deep/test.jsonl"]
    assert not any("skipped" in line for line in said), "what is kept beside the copies is no data"


def test_a_copy_that_is_cut_off_is_no_copy(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(type(memory), "get_file", lambda self, source, target: Path(target).write_bytes(b"{"))
    with pytest.raises(DataError, match=rf"a.jsonl: 1 of {len(ROW)} bytes arrived"):
        fetched(tmp_path, "memory://bucket/a.jsonl")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_cannot_be_read_is_named(memory, tmp_path):
    with pytest.raises(DataError, match=r"memory://bucket/none: no such file, or folder with data files"):
        fetched(tmp_path, "memory://bucket/none")
    with pytest.raises(ConfigError, match=r"ftp://x/a: files are read from s3://, gs://"):
        fetched(tmp_path, "ftp://x/a")
    for url in ("memory://bucket/../../etc/passwd", "memory://"):
        with pytest.raises(ConfigError, match="is no path of a file or folder"):
            remote.place_of(url, tmp_path)
    with pytest.raises(DataError, match="Stages read remote files"):
        list_files(["s3://bucket/a.jsonl"])
    assert not is_path("s3://bucket/a.jsonl", ())


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"s3://b/a.jsonl: needs .*: pip install 'jaxpo\[s3\]'"):
        remote.filesystem("s3://b/a.jsonl")


def test_nothing_remote_is_imported_for_local_files():
    code = "import sys, jaxpo.data.rows.files.remote; print('fsspec' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
