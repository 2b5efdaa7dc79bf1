"""A batch over several processes, where rows, or positions of the same rows, lie with different ones."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from stages.process import finish_all, places, start_program

from jaxpo.config import Data, Pretrain, Run
from jaxpo.config.run import Mesh
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.positions import position_problems
from jaxpo.sharding import AXES, make_mesh, put_batch, row_share, whole_rows
from jaxpo.stages.recording import local_rows

BATCH_OF_ONE_LENGTH = packed(make_examples("text", 16, 0))  # 18 positions

PROGRAM = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from contracts.batches import make_examples, packed
from jaxpo.sharding import make_mesh, put_batch, row_share
from jaxpo.sharding.multihost import start_processes
from jaxpo.stages.recording import local_rows

start_processes()
batch = jax.device_get(packed(make_examples("text", 16, 0)))
longer = lambda name: jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 2))), getattr(batch, name))
batch = batch.replace(**{name: longer(name) for name in batch.POSITIONAL})
for sizes, shares in (({"sequence": 4}, 1), ({"sequence": 2, "fsdp": 2}, 2), ({"tensor": 2, "sequence": 2}, 1)):
    mesh = make_mesh(sizes)
    share, of = row_share(mesh)
    assert of == shares and share == (jax.process_index() if shares == 2 else 0), (share, of)
    own = jax.tree.map(lambda x: x[share * (len(x) // of) : (share + 1) * (len(x) // of)], batch)
    placed = put_batch(own, mesh)
    assert placed.tokens.shape == batch.tokens.shape and placed.example_id.shape == batch.example_id.shape
    at = np.arange(batch.tokens.size, dtype=np.int32).reshape(batch.tokens.shape)
    add = jax.jit(lambda x: (x * at).sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    assert int(add(placed.tokens)) == int((batch.tokens * at).sum())
    np.testing.assert_array_equal(local_rows(placed.positions), own.positions)
print("all is where it belongs")
"""


def of_processes(sizes, owners):
    """A mesh of devices that belong to these processes."""
    shape = [sizes.get(axis, 1) for axis in AXES]
    devices = np.array([SimpleNamespace(process_index=p) for p in owners], object).reshape(shape)
    return SimpleNamespace(devices=devices, axis_names=AXES, shape=dict(zip(AXES, shape, strict=True)))


@pytest.mark.parametrize(
    ("sizes", "owners", "mine", "expected"),
    [
        ({"fsdp": 4}, [0, 0, 1, 1], 1, (1, 2)),
        ({"fsdp": 2, "sequence": 2}, [0, 0, 1, 1], 1, (1, 2)),
        ({"sequence": 4}, [0, 0, 1, 1], 1, (0, 1)),
        ({"fsdp": 2, "sequence": 4}, [0, 0, 1, 1, 2, 2, 3, 3], 2, (1, 2)),
        ({"fsdp": 2, "tensor": 2}, [0, 1, 2, 3], 1, (0, 2)),
        # Devices in the order of a torus: the second rows come first.
        ({"fsdp": 4}, [1, 1, 0, 0], 0, (1, 2)),
    ],
)
def test_processes_share_rows_and_those_with_the_same_rows_share_them_whole(monkeypatch, sizes, owners, mine, expected):
    monkeypatch.setattr(jax, "process_index", lambda: mine)
    assert row_share(of_processes(sizes, owners)) == expected


@pytest.mark.parametrize("owners", [[0, 1, 0, 1], [0, 0, 0, 1], [0, 1, 1, 2]])
def test_processes_that_share_rows_in_part_are_refused(owners):
    with pytest.raises(ConfigError, match="must hold consecutive rows"):
        row_share(of_processes({"fsdp": 4}, owners))


def test_positions_lie_over_their_axis_and_come_back_whole():
    mesh = make_mesh({"fsdp": 2, "sequence": 2, "tensor": 2})
    placed = put_batch(BATCH_OF_ONE_LENGTH, mesh)
    rows, length = BATCH_OF_ONE_LENGTH.tokens.shape
    for x in (placed.tokens, placed.masks["completion"]):
        assert x.sharding.shard_shape(x.shape) == (rows // 2, length // 2)
    assert placed.roles["text"].sharding.shard_shape((16,)) == (8,)
    assert whole_rows(placed.tokens).sharding.shard_shape((rows, length)) == (rows // 2, length)
    np.testing.assert_array_equal(local_rows(placed.tokens), BATCH_OF_ONE_LENGTH.tokens)


def test_rows_that_the_devices_do_not_divide_are_named():
    with pytest.raises(ConfigError, match=r"rows of 18 positions .* over 4 devices; make data\.row_length a multiple"):
        put_batch(BATCH_OF_ONE_LENGTH, make_mesh({"sequence": 4, "fsdp": 2}))
    stage = Pretrain(name="long", data=Data(train=("rows.jsonl",), row_length=1022))
    run = Run(stages=(stage, dataclasses.replace(stage, name="short", data=Data(row_length=64))), mesh=Mesh(sequence=4))
    (found,) = position_problems(run, {"sequence": 4})
    assert found.startswith("long.data.row_length: rows of 1022 positions cannot be spread over 4 devices")
    assert "--long.data.row-length 1024" in found
    assert not list(position_problems(run, {"sequence": -1}))


@pytest.mark.scale
def test_two_processes_hold_the_batch_of_one():
    running = [start_program("-c", PROGRAM, devices=2, environ=place) for place in places(2)]
    codes, said = finish_all(running)
    assert codes == [0, 0], "\n".join(said)
    assert all("all is where it belongs" in text for text in said)
