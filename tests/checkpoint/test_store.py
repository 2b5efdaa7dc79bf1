"""CheckpointStore: bitwise round trip, other meshes, damage, foreign trees, failures of asynchronous saves."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.errors import CheckpointError


def sharded(tree, devices):
    """First axis over the devices where it divides."""
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    def one(x):
        spec = PartitionSpec("d") if x.ndim and x.shape[0] % devices == 0 else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.device_put(tree, jax.tree.map(one, tree))


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def everything():
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(16, 5)), jnp.float32),
        "special": jnp.array([np.nan, -np.inf, -0.0, 1e-45], jnp.float32),
        "half": jnp.asarray(rng.normal(size=(8, 3)), jnp.bfloat16),
        "int": jnp.arange(-4, 4, dtype=jnp.int32),
        "byte": jnp.arange(8, dtype=jnp.int8),
        "flag": jnp.array([True, False]),
        "scalar": jnp.float32(3.5),
        "zeros": jnp.zeros((8, 2)),
        "none": None,
        "empty": {"deeper": {}},
        "tuple": (jnp.uint32(7), (), [jnp.ones(3)]),
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(5, impl="rbg"), 8),
    }


def bits(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert bits(x) == bits(y)


@pytest.mark.parametrize(("devices", "other"), [(1, 1), (8, 1), (1, 8), (8, 4)])
def test_round_trip_is_bitwise_onto_any_mesh(tmp_path, devices, other):
    """Every dtype, NaN payloads and signed zeros, keys, None and empty subtrees; shardings as asked for."""
    state = sharded(everything(), devices)
    target = abstract(sharded(everything(), other))
    store = CheckpointStore(tmp_path)
    store.save(3, state, {"config": {"lr": 0.1, "none": None}, "rows_seen": 2**40})
    restored, meta = store.restore(None, target)
    assert_same(restored, state)
    assert meta == {"config": {"lr": 0.1, "none": None}, "rows_seen": 2**40}
    jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim) or pytest.fail(str(y)), restored, target)


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = sharded({"w": jnp.arange(1 << 21, dtype=jnp.float32), "v": jnp.ones((64, 64))}, 8)
    overwrite = jax.jit(lambda t: jax.tree.map(lambda x: x * 0 - 1, t), donate_argnums=0)
    store = CheckpointStore(tmp_path)
    expected = jax.tree.map(np.array, state)
    target = abstract(state)
    store.save(1, state, {})
    jax.block_until_ready(overwrite(state))
    restored, _ = store.restore(1, target)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_keep_protect_and_steps(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    state = {"x": jnp.zeros(())}
    assert (store.latest(), store.steps()) == (None, [])
    for step in (1, 2, 3, 10):
        store.save(step, state, {"at": step})
        store.protect(1)
    store.wait()
    assert store.steps() == [1, 3, 10]
    assert store.latest() == 10
    assert store.meta()["at"] == 10
    assert store.meta(3)["at"] == 3
    store.save(10, state, {"at": "again"})
    assert store.meta(10)["at"] == 10


def test_leftovers_of_a_killed_process_are_ignored_and_removed_by_the_next_save(tmp_path):
    """A reader leaves them alone: they may be the save under way of a run that is alive."""
    store = CheckpointStore(tmp_path)
    state = {"x": jnp.zeros(())}
    store.save(1, state, {})
    store.wait()
    shutil.copytree(store.path(1), tmp_path / "00000002.orbax-checkpoint-tmp")
    shutil.copytree(store.path(1), tmp_path / "00000000.deleting")
    shutil.copytree(store.path(1), tmp_path / "00000003.unsynced")
    (tmp_path / "00000004.orbax-checkpoint-tmp").write_text("a file, not a folder")
    reader = CheckpointStore(tmp_path)
    assert (reader.steps(), reader.latest(), reader.meta()) == ([1], 1, {})
    reader.restore(None, abstract(state))
    assert len(list(tmp_path.iterdir())) == 5
    reader.save(2, state, {})
    reader.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001", "00000002"]


def test_reading_an_absent_directory_makes_none(tmp_path):
    assert CheckpointStore(tmp_path / "a").latest() is None
    assert not (tmp_path / "a").exists()


def test_discard_after(tmp_path):
    store = CheckpointStore(tmp_path, keep=None)
    for step in (1, 2, 3):
        store.save(step, {"x": jnp.zeros(())}, {})
    store.discard_after(1)
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(store directory, state)` to be copied and damaged."""
    directory = tmp_path_factory.mktemp("saved")
    state = {"w": jnp.arange(3000.0).reshape(30, 100), "b": jnp.ones((3,), jnp.bfloat16), "key": jax.random.key(0)}
    store = CheckpointStore(directory)
    store.save(1, state, {})
    store.wait()
    return directory, state


def damage(file, how):
    data = file.read_bytes()
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(data[: len(data) // 2])
    else:
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 0xFF
        file.write_bytes(bytes(changed))


@pytest.mark.parametrize("how", ["delete", "truncate", "flip a byte"])
def test_damage_never_gives_wrong_values(saved, tmp_path, how, capfd):
    """Each file in turn: the state comes back bit for bit, or a CheckpointError names a file and a remedy."""
    directory, state = saved
    files = sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file() and p.stat().st_size)
    failed = 0
    for i, name in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(directory, copy)
        damage(copy / name, how)
        store = CheckpointStore(copy)
        message = ""
        try:
            restored, _ = store.restore(1, abstract(state))
        except CheckpointError as error:
            message = str(error)
        if message:
            failed += 1
            assert re.search(
                f"{store.path(1)} is damaged: .* Restore the file from a copy, or start its run again", message
            )
        else:
            assert_same(restored, state)
    assert failed >= 4
    assert "Traceback" not in capfd.readouterr().err


def test_damage_names_the_file_and_the_checkpoint_before(saved, tmp_path):
    directory, state = saved
    shutil.copytree(directory, tmp_path / "a")
    store = CheckpointStore(tmp_path / "a", keep=None)
    store.save(2, state, {})
    store.wait()
    damage(store.path(2) / "state" / "manifest.ocdbt", "truncate")
    with pytest.raises(CheckpointError, match=r"damaged: .*manifest\.ocdbt has .*goes on from step 1"):
        store.restore(None, abstract(state))
    damage(store.path(1) / "meta" / "meta.json", "delete")
    with pytest.raises(
        CheckpointError, match=r"meta\.json is missing: this is no jaxpo checkpoint, or an incomplete one"
    ):
        store.restore(1, abstract(state))


def test_a_flipped_value_is_named_by_its_file(saved, tmp_path):
    """In a small file; in a large one it is named by its leaf (test_fallback)."""
    directory, state = saved
    shutil.copytree(directory, tmp_path / "a")
    largest = max((p for p in (tmp_path / "a").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damage(largest, "flip a byte")
    with pytest.raises(CheckpointError, match=rf"damaged: {largest} is not as it was written"):
        CheckpointStore(tmp_path / "a").restore(1, abstract(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": jnp.zeros((30, 101))}, r"w is float32\[30, 100\] in it and float32\[30, 101\] here"),
        ({"b": jnp.zeros((3,))}, r"b is bfloat16\[3\] in it and float32\[3\] here"),
        ({"extra": jnp.zeros(())}, r"extra float32\[\] is not in it"),
        ({"w": None}, r"w float32\[30, 100\] is in it and has no place"),
        ({"key": jax.random.key(0, impl="rbg")}, r"key is key<fry>\[\] in it and key<rbg>\[\] here"),
    ],
)
def test_a_foreign_tree_is_refused_leaf_by_leaf(saved, change, message):
    directory, state = saved
    with pytest.raises(CheckpointError, match=message) as error:
        CheckpointStore(directory).restore(1, abstract({**state, **change}))
    assert str(directory) in str(error.value)
    assert "Use the configuration that wrote it" in str(error.value)


def test_absent_checkpoints_are_named(tmp_path, saved):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        CheckpointStore(tmp_path).restore(None, {})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 in .*; it has 1"):
        CheckpointStore(saved[0]).restore(7, {})


def test_leaves_without_a_sharding_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every leaf needs a sharding, scalars too; without one: n"):
        CheckpointStore(tmp_path).save(1, {"n": np.float32(1)}, {})
    with pytest.raises(ValueError, match="without one: n"):
        CheckpointStore(tmp_path).save(1, {"n": 1}, {})


FULL = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.errors import CheckpointError
store = CheckpointStore(sys.argv[1])
state = {"w": jax.random.normal(jax.random.key(0), (300, 1000)), "n": jnp.int32(1)}
target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
store.save(1, state, {"at": 1})
store.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
store.save(2, state, {"at": 2})
try:
    store.save(3, state, {"at": 3}) if sys.argv[2] == "save" else store.wait()
except CheckpointError as error:
    print(error)
else:
    sys.exit("the failure was swallowed")
assert store.steps() == [1], store.steps()
restored, meta = store.restore(None, target)
assert meta == {"at": 1} and np.array_equal(restored["w"], state["w"])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save(3, state, {"at": 3})
store.wait()
assert CheckpointStore(sys.argv[1]).steps() == [1, 3]
"""


@pytest.mark.parametrize("surfaces_in", ["wait", "save"])
def test_a_full_disk_surfaces_and_the_previous_checkpoint_stays(tmp_path, surfaces_in):
    """A real limit on file sizes in a process of its own: one message, step 1 loadable, a retry works."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), surfaces_in],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"saving step 2 to {tmp_path / '00000002'} failed: " in done.stdout
    assert "File too large" in done.stdout
    assert "The checkpoint of step 1 is intact. Free space" in done.stdout
    assert "Traceback" not in done.stderr


def test_fingerprint_depends_on_bits_names_and_shapes_but_not_on_the_mesh():
    tree = everything()
    base = fingerprint(sharded(tree, 1))
    assert fingerprint(sharded(tree, 8)) == base
    assert fingerprint({**tree, "zeros": tree["zeros"].at[3, 1].set(-0.0)}) != base
    assert fingerprint({**tree, "int": tree["int"][::-1]}) != base
    assert fingerprint({**tree, "zeros": tree["zeros"].reshape(2, 8)}) != base
    assert fingerprint({("y" if k == "w" else k): v for k, v in tree.items()}) != base
    assert fingerprint({**tree, "key": jax.random.key(6)}) != base


def test_a_part_is_restored_alone_and_onto_another_mesh(tmp_path):
    state = sharded({"params": {"model": everything(), "value": {"w": jnp.ones(3)}}, "opt": jnp.ones((50, 50))}, 8)
    store = CheckpointStore(tmp_path)
    store.save(4, state, {"at": 4})
    target = abstract(sharded(everything(), 1))
    part, meta = store.restore_part(None, "params/model", target)
    assert_same(part, state["params"]["model"])
    assert meta == {"at": 4}
    with pytest.raises(CheckpointError, match=r"params/model/w float32\[16, 5\] is in it and has no place"):
        store.restore_part(None, "params/model", {k: v for k, v in target.items() if k != "w"})
    assert_same(store.restore_leaf(None, "params/model/w", target["w"]), state["params"]["model"]["w"])
    with pytest.raises(CheckpointError, match=r"params/model/v float32.* is not in it"):
        store.restore_leaf(None, "params/model/v", target["w"])
