"""Back to the newest intact checkpoint: what counts as damage, what does not, and what is kept of it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.checkpoint import store as store_module
from jaxpo.checkpoint.fallback import restore_newest, set_damaged_aside
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.data.durable import intact, seal
from jaxpo.errors import CheckpointError, DamagedError

LARGE = 300_000  # floats, which do not compress: more than a file whose content `files.json` describes


def at(step):
    return {"step": jnp.int32(step), "w": jax.random.normal(jax.random.key(step), (LARGE,))}


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), at(0))


def consistent(step, state, meta):
    return None if int(state["step"]) == step else f"it says {step} and holds {int(state['step'])}"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    directory = tmp_path_factory.mktemp("three")
    store = CheckpointStore(directory, keep=None)
    for step in (1, 2, 3):
        store.save(step, at(step), {"rows_seen": 8 * step})
    store.close()
    return directory


@pytest.fixture
def copy(three, tmp_path):
    shutil.copytree(three, tmp_path / "c")
    return tmp_path / "c"


def flip(file, at=0.5):
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 1
    file.write_bytes(bytes(data))


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def rows_seen(folder):
    file = folder / "meta" / "meta.json"
    document = json.loads(file.read_text())
    document["meta"]["rows_seen"] += 1
    file.write_text(json.dumps(document))


def renamed(folder):
    folder.rename(folder.with_name("00000007"))


DAMAGES = {
    "a flipped value": (lambda c: flip(largest(c)), "stored values of w are not those", False),
    "a truncated value": (lambda c: largest(c).write_bytes(b""), "has 0 bytes instead of", True),
    "a missing file": (lambda c: largest(c).unlink(), "is missing", True),
    "a flipped index": (lambda c: flip(c / "state" / "manifest.ocdbt"), "manifest.ocdbt is not as it was", True),
    "half a manifest": (lambda c: (c / "meta/meta.json").write_text('{"format": 1, "st'), "cannot be read", True),
    "no manifest": (lambda c: shutil.rmtree(c / "meta"), "is missing", True),
    "an altered position": (rows_seen, "meta.json is not as it was written", True),
    "another name": (renamed, "is of step 3: the folder was renamed", True),
    "an empty list of files": (lambda c: (c / "files.json").write_text(""), "files.json cannot be read", True),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_kept_aside_and_the_newest_intact_one_is_read(copy, kind):
    """Named with the reason; found before any array is read where the files tell, and else by the arrays' values."""
    damage, reason, early = DAMAGES[kind]
    damage(copy / "00000003")
    newest = max(p.name for p in copy.iterdir())
    store, said = CheckpointStore(copy, keep=None), []
    set_damaged_aside(store, said.append)
    assert store.steps() == ([1, 2] if early else [1, 2, 3])
    step, state, meta = restore_newest(store, ABSTRACT, consistent, said.append)
    assert (step, meta["rows_seen"]) == (2, 16)
    np.testing.assert_array_equal(state["w"], at(2)["w"])
    (line,) = said
    assert reason in line
    assert f"It is kept as {newest}.damaged, and the stage goes on from step 2" in line
    assert sorted(p.name for p in copy.iterdir()) == ["00000001", "00000002", f"{newest}.damaged"]
    store.save(3, at(3), {})
    store.close()
    assert (store.latest(), len(said)) == (3, 1)


def test_every_bit_of_the_description_is_believed_or_refused_as_damage(copy):
    """Each byte in turn is changed: the same description comes back, or damage is said; never another, no traceback."""
    file = copy / "00000002" / "meta" / "meta.json"
    whole, before = file.read_bytes(), CheckpointStore(copy).meta(2)
    refused = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 7)
        file.write_bytes(bytes(changed))
        try:
            assert CheckpointStore(copy).meta(2) == before
        except DamagedError:
            refused += 1
    assert refused > 0.9 * len(range(0, len(whole), 7))


def test_none_is_left_when_all_are_damaged(copy):
    for step in (1, 2, 3):
        flip(copy / f"0000000{step}" / "meta" / "meta.json")
    store, said = CheckpointStore(copy), []
    set_damaged_aside(store, said.append)
    assert restore_newest(store, ABSTRACT, consistent, said.append) is None
    assert "and the stage starts again" in said[-1]
    assert len(list(copy.glob("*.damaged"))) == 3


def test_another_configuration_is_no_damage(copy):
    store = CheckpointStore(copy, keep=None)
    other = {**ABSTRACT, "extra": ABSTRACT["step"]}
    with pytest.raises(CheckpointError, match="does not fit this configuration") as error:
        restore_newest(store, other, consistent, print)
    assert not isinstance(error.value, DamagedError)
    assert store.steps() == [1, 2, 3]


FAILURES = (
    *(PermissionError(13, "Permission denied"), MemoryError(), OSError(5, "I/O error")),
    *(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte"), OSError(107, "not connected")),
)


@pytest.mark.parametrize("failure", FAILURES)
def test_what_this_machine_cannot_read_is_no_damage(copy, monkeypatch, failure):
    def fail(*args):
        raise ValueError("could not read") from failure

    if isinstance(failure, OSError) and failure.errno == 5:
        failure = ValueError("DATA_LOSS: Input/output error [os_error_code='5']")
    if isinstance(failure, OSError) and failure.errno == 107:
        failure = ValueError("INTERNAL: Transport endpoint is not connected [os_error_code='107']")
    monkeypatch.setattr(store_module.ocp, "load_checkpointables", fail)
    store = CheckpointStore(copy, keep=None)
    with pytest.raises(CheckpointError, match="Nothing says that it is damaged") as error:
        restore_newest(store, ABSTRACT, consistent, print)
    assert not isinstance(error.value, DamagedError)
    assert store.steps() == [1, 2, 3]


def test_damage_that_another_process_sees_is_damage_before_arrays_are_read(copy, monkeypatch):
    def worst(grade):
        return np.asarray([grade, 1])

    monkeypatch.setattr(store_module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(store_module.multihost_utils, "process_allgather", worst)
    monkeypatch.setattr(store_module.ocp, "load_checkpointables", lambda *_: pytest.fail("read alone"))
    with pytest.raises(DamagedError, match="could not be read by another process"):
        CheckpointStore(copy).restore(3, ABSTRACT)


def test_a_process_that_reads_alone_asks_no_other(copy, monkeypatch):
    """A work stage loads a model on one process while the others wait for it: they would never answer."""
    problem = DamagedError("a file is missing")
    monkeypatch.setattr(store_module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(store_module, "works_alone", lambda: True)
    monkeypatch.setattr(store_module.multihost_utils, "process_allgather", lambda x: pytest.fail("asked the others"))
    assert store_module._agreed(problem, copy) is problem
    assert store_module._agreed(None, copy) is None


def test_a_description_that_contradicts_its_state_is_damage(copy):
    """Of an earlier version, which wrote no digests: a folder that was renamed together with what it says."""
    shutil.move(copy / "00000003", copy / "00000009")
    (copy / "00000009" / "files.json").unlink()
    file = copy / "00000009" / "meta" / "meta.json"
    document = {k: v for k, v in json.loads(file.read_text()).items() if k != "digest"} | {"step": 9}
    file.write_text(json.dumps(document))
    store, said = CheckpointStore(copy, keep=None), []
    assert restore_newest(store, ABSTRACT, consistent, said.append)[0] == 2
    assert "it says 9 and holds 3" in said[0]


def test_of_a_step_that_was_asked_for_damage_is_an_error_and_later_ones_stay(copy):
    flip(largest(copy / "00000002"))
    store = CheckpointStore(copy, keep=None)
    store.back_to(2)
    with pytest.raises(DamagedError, match="stored values of w"):
        restore_newest(store, ABSTRACT, consistent, print)
    assert CheckpointStore(copy).steps() == [1, 2, 3]


def test_checkpoints_of_an_earlier_version_are_read(copy):
    """Neither digest nor list of files."""
    (copy / "00000003" / "files.json").unlink()
    file = copy / "00000003" / "meta" / "meta.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "digest"}))
    assert restore_newest(CheckpointStore(copy), ABSTRACT, consistent, pytest.fail)[0] == 3


def test_a_seal_covers_names_values_and_types():
    document = {"a": 1, "b": [1.5, None, "ü"], "c": {"d": True}}
    assert intact(document)  # none is believed: of an earlier version
    assert intact(json.loads(json.dumps(seal(document))))
    for other in ({**document, "a": "1"}, {**document, "e": 1}, {"a": 1}, {**document, "c": {"D": True}}):
        assert not intact({**other, "digest": seal(document)["digest"]})
