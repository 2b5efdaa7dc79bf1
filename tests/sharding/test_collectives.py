"""Collectives are read from the text of a program: every way to write groups of devices, loops, and started ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.sharding.collectives import collectives, totals

MESH = {"replica": 2, "fsdp": 2, "expert": 1, "sequence": 1, "tensor": 2}
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {{
  %gather = f32[16,8]{{1,0}} all-gather(%x), channel_id=1, {groups}, dimensions={{0}}, use_global_device_ids=true
}}

%cond (p: (s32[], f32[4,8])) -> pred[] {{
  ROOT %less = pred[] compare(%a, %b), direction=LT
}}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {{
  %while.1 = (s32[], f32[4,8]{{1,0}}) while(%t), condition=%cond, body=%body{trips}
  ROOT %sum = (f32[3]{{0}}, bf16[5]{{0}}) all-reduce(%c, %d), channel_id=2, replica_groups={{}}, to_apply=%add
}}
"""


def groups_along(axes):
    """`[groups, members]`, straight from the definition of a mesh."""
    numbers = np.arange(8).reshape(tuple(MESH.values()))
    inside = [list(MESH).index(axis) for axis in axes]
    outside = [i for i in range(5) if i not in inside]
    return numbers.transpose(outside + inside).reshape(-1, int(np.prod([numbers.shape[i] for i in inside])))


def read(groups, trips=""):
    return collectives(PROGRAM.format(groups=groups, trips=trips), MESH)


AXES = ("replica", "fsdp", "tensor")
SOME = [c for n in (1, 2, 3) for c in itertools.combinations(AXES, n)]


@given(st.sampled_from(SOME))
def test_listed_groups_and_groups_of_a_mesh_name_the_same_axes(axes):
    listed = ",".join("{" + ",".join(map(str, g)) + "}" for g in groups_along(axes).tolist())
    names = ",".join(f"'{axis}'" for axis in axes)
    sizes = ",".join(f"'{axis}'={n}" for axis, n in MESH.items())
    for written in (f"replica_groups={{{listed}}}", f"replica_groups=mesh[{sizes}] {{{names}}}"):
        gather = read(written)[0]
        assert (gather.axes, gather.members) == (axes, 2 ** len(axes))


@pytest.mark.parametrize(("written", "axes"), [
    ("[4,2]<=[8]", ("tensor",)),
    ("[4,2]<=[2,4]T(1,0)", ("replica",)),
    ("[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
    ("[2,4]<=[4,2]T(1,0)", ("replica", "fsdp")),
    ("[1,8]<=[8]", AXES),
    ("mesh['a'=8] {'a':(2)2}", ("fsdp",)),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("replica",)),
])  # fmt: skip
def test_groups_in_short(written, axes):
    assert read(f"replica_groups={written}")[0].axes == axes


def test_a_form_that_is_not_known_is_no_silence():
    with pytest.raises(ValueError, match="form that is not known"):
        read("replica_groups=something[new]")


def test_loops_count_as_often_as_they_run_and_tuples_hold_all_their_arrays():
    groups = "replica_groups=[4,2]<=[8]"
    gather, summed = read(groups, ', backend_config={"known_trip_count":{"n":"12"}}')
    assert (gather.count, gather.bytes, gather.unknown) == (12, 16 * 8 * 4, False)
    assert (summed.count, summed.bytes, summed.axes) == (1, 3 * 4 + 5 * 2, AXES)
    assert totals([gather, summed])["all-gather", ("tensor",)].bytes == 12 * 16 * 8 * 4
    assert read(groups)[0].unknown


@pytest.mark.parametrize(("line", "kind", "size"), [
    ("%g = (f32[4], f32[16]) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-gather", 64),
    ("%g = f32[4] reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}", "reduce-scatter", 64),
    ("%g = f32[4] all-reduce-start(%x), replica_groups=[2,4]<=[8], to_apply=%add", "all-reduce", 16),
    ("%g = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
     "collective-permute", 16),
    ("%g = f8e4m3fn[4] all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-to-all", 4),
])  # fmt: skip
def test_bytes_are_those_that_a_group_holds_together(line, kind, size):
    (found,) = collectives(
        f"ENTRY %main (a: f32[4]) -> f32[4] {{\n  {line}\n  %d = f32[16] all-gather-done(%g)\n}}\n", MESH
    )
    assert (found.kind, found.bytes) == (kind, size)


def test_a_group_of_one_moves_nothing():
    assert [one.kind for one in read("replica_groups=[8,1]<=[8]")] == ["all-reduce"]
