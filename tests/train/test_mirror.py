"""A run's directory and its copy elsewhere: what is copied, in what order, and what a start fetches."""

import dataclasses
import shutil
import sys

import fsspec
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Run
from jaxpo.errors import RunError
from jaxpo.recipe.checks.run import mirror_problems
from jaxpo.train.mirror import Mirror
from jaxpo.train.rundir import RunDir

URL = "memory://bucket/runs"


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Checkpoints of steps 1 to 4, made once."""
    folder = tmp_path_factory.mktemp("steps")
    store = CheckpointStore(folder, keep=None)
    for step in (1, 2, 3, 4):
        store.save(step, {"x": jnp.full(3, step, jnp.float32)}, {"step": step})
    store.close()
    return folder


def put(home, steps, *chosen):
    """What a run would have written that stands at the last of these steps, keeping these."""
    folder = home.path / "stages" / "sft" / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    for step in chosen:
        shutil.copytree(steps / f"{step:08d}", folder / f"{step:08d}")
    (home.path / "config.json").write_text('{"name": "a"}')
    (home.path / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, chosen[-1] + 1)))
    (home.path / "data").mkdir(exist_ok=True)
    (home.path / "data" / "rows").write_text("made again")


def found(home):
    folder = home.path / "stages" / "sft" / "checkpoints"
    return [int(p.name) for p in sorted(folder.glob("*")) if p.name.isdigit()]


def copied(memory):
    return sorted(name.removeprefix("/bucket/runs/a/") for name in memory.find("/bucket/runs/a"))


def kept(memory):
    return sorted({int(name.split("/")[3]) for name in copied(memory) if "/checkpoints/" in name})


def push(home, lines=None):
    said = [] if lines is None else lines
    with Mirror(URL, home, said.append):
        pass
    return said


def fetch(home, **how):
    lines = []
    Mirror(URL, home, lines.append).fetch(**how)
    return lines


def opened(path):
    (path / "a").mkdir(parents=True, exist_ok=True)
    return RunDir(path / "a")


def value(home, step):
    abstract = {"x": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=SingleDeviceSharding(jax.devices()[0]))}
    store = CheckpointStore(home.path / "stages" / "sft" / "checkpoints")
    return store.restore(step, abstract)[0]["x"].tolist()


def test_a_lost_directory_comes_back_and_goes_on(memory, steps, tmp_path):
    here = opened(tmp_path / "one")
    put(here, steps, 1, 2)
    assert push(here) == []
    assert kept(memory) == [1, 2]
    assert not [name for name in copied(memory) if name.startswith(("data", "lock"))]
    put(here, steps, 2, 3)
    assert push(here) == []
    assert kept(memory) == [2, 3]  # what is pruned here is pruned there
    there = opened(tmp_path / "two")
    lines = fetch(there)
    assert lines == [
        f"fetched from {URL}/a: stages/sft/checkpoints/00000002, stages/sft/checkpoints/00000003, and the files "
        "beside them"
    ]
    assert found(there) == [2, 3]
    assert value(there, 3) == [3, 3, 3]
    assert (there.path / "metrics.jsonl").read_bytes() == (here.path / "metrics.jsonl").read_bytes()
    assert fetch(there) == []
    # The second goes on; the first, which is older now, fetches what it lacks, and cannot overwrite it before.
    put(there, steps, 3, 4)
    assert push(there) == []
    assert "is written by another run" in push(here)[0]
    assert "00000004" in fetch(here)[0]
    assert found(here) == [2, 3, 4]
    assert push(here) == []


def test_nothing_is_copied_twice(memory, steps, tmp_path, monkeypatch):
    here = opened(tmp_path)
    put(here, steps, 1)
    push(here)
    names = []
    monkeypatch.setattr(type(memory), "put_file", lambda fs, local, name, **_: names.append(name))
    (here.path / "metrics.jsonl").write_text("more\n")
    push(here)
    assert [name.rsplit("/", 1)[1] for name in names] == ["metrics.jsonl"]


def test_a_copy_counts_when_its_last_file_is_there(memory, steps, tmp_path, monkeypatch):
    """Whichever call fails, what can be fetched is whole; what failed is said, and copied the next time."""
    here = opened(tmp_path / "one")
    put(here, steps, 1)
    push(here)
    put(here, steps, 1, 2)
    real, calls = type(memory).put_file, []
    files = len([p for p in (here.path / "stages/sft/checkpoints/00000002").rglob("*") if p.is_file()])
    for failing in range(files):  # the last of them fails at `files.json`
        calls.clear()

        def put_file(fs, local, name, failing=failing, **more):
            calls.append(name)
            if len(calls) > failing:
                raise ConnectionError("no route")
            real(fs, local, name, **more)

        monkeypatch.setattr(type(memory), "put_file", put_file)
        (said,) = push(here)
        assert "ConnectionError: no route" in said
        assert "copied after the next checkpoint" in said
        there = opened(tmp_path / f"fetched{failing}")
        fetch(there)
        assert found(there) == [1]
        # As if nothing had been copied yet.
        for name in memory.find("/bucket/runs/a/stages/sft/checkpoints/00000002"):
            memory.rm_file(name)
    monkeypatch.setattr(type(memory), "put_file", real)
    assert push(here) == []
    fetch(there := opened(tmp_path / "whole"))
    assert found(there) == [1, 2]
    assert value(there, 2) == [2, 2, 2]


def test_a_damaged_copy_is_left_out(memory, steps, tmp_path):
    here = opened(tmp_path / "one")
    put(here, steps, 1, 2)
    push(here)
    (largest,) = [n for n in memory.find("/bucket/runs/a") if n.endswith("00000002/state/manifest.ocdbt")]
    memory.pipe(largest, b"x" + memory.cat(largest)[1:])
    there = opened(tmp_path / "two")
    lines = fetch(there)
    assert "00000002 is left out" in lines[0]
    assert "manifest.ocdbt is not as it was written" in lines[0]
    assert found(there) == [1]


def test_going_back_is_not_undone_by_an_older_copy(memory, steps, tmp_path, monkeypatch):
    here = opened(tmp_path)
    put(here, steps, 1, 2, 3)
    push(here)
    put(here, steps, 1, 2)  # --resume 2, and every later call fails
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "rm_file", lambda fs, name: (_ for _ in ()).throw(OSError("no")))
        assert "cannot be written" in push(here)[0]
    assert fetch(here) == []
    assert found(here) == [1, 2]


def test_two_runs_do_not_share_a_copy(memory, steps, tmp_path):
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    put(one, steps, 1)
    push(one)
    put(two, steps, 1, 2)
    with pytest.raises(RunError, match="is a copy of another run"):
        fetch(two)
    assert "is written by another run" in push(two)[0]
    assert kept(memory) == [1]


def test_steps_that_only_the_directory_has_are_not_lost(memory, steps, tmp_path):
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    put(one, steps, 1)
    push(one)
    fetch(two)
    put(two, steps, 1, 2)
    push(two)
    put(one, steps, 1, 3)
    with pytest.raises(RunError, match=r"has step 3, and .* has only 2"):
        fetch(one)
    assert found(one) == [1, 3]


def test_files_that_are_no_copy_are_left_alone(memory, steps, tmp_path):
    memory.pipe("/bucket/runs/a/notes.txt", b"mine")
    here = opened(tmp_path)
    put(here, steps, 1)
    assert "holds files that are no copy of a run" in push(here)[0]
    assert copied(memory) == ["notes.txt"]


def test_names_that_lead_out_are_refused(memory, steps, tmp_path):
    here = opened(tmp_path / "one")
    put(here, steps, 1)
    push(here)
    memory.store["/bucket/runs/a/../../outside"] = memory.store["/bucket/runs/a/config.json"]
    with pytest.raises(RunError):
        fetch(opened(tmp_path / "two"))
    assert not list(tmp_path.rglob("outside"))


def test_starting_over_moves_the_copy_aside(memory, steps, tmp_path):
    here = opened(tmp_path / "one")
    put(here, steps, 1)
    push(here)
    before = copied(memory)
    assert fetch(opened(tmp_path / "two"), restart=True) == [f"the copy of the earlier run was moved to {URL}/a.1"]
    assert copied(memory) == []
    assert sorted(n.removeprefix("/bucket/runs/a.1/") for n in memory.find("/bucket/runs/a.1")) == before


def test_an_unreadable_mirror_stops_a_start(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("late")))
    with pytest.raises(RunError, match="cannot be read: TimeoutError: late"):
        fetch(opened(tmp_path))


def test_a_mirror_is_checked_before_anything_starts(monkeypatch):
    def problems(url):
        return list(mirror_problems(dataclasses.replace(Run(), mirror=url)))

    assert problems(None) == problems(URL) == []
    assert "must be a folder at s3:// or gs://" in problems("/disk")[0]
    assert "must be a folder at s3:// or gs://" in problems("https://host/a")[0]
    assert "s3://" in problems("ftp://host/a")[0]
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install 'jaxpo[s3]'" in problems("s3://bucket/a")[0]


def test_nothing_happens_without_one():
    with Mirror() as mirror:
        mirror.push()
    mirror.fetch()
    assert not mirror.active
