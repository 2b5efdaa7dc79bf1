"""The compiled step writes its new state over the old one, and passes over each array of it once."""

import collections
import re

import jax
import pytest
from guards.programs import CASES, program, size

PARAMETER = re.compile(r"\s*%(\S+) = (\S+) parameter\((\d+)\)")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%(\S+) = (\S+) ([\w-]+)\((.*?)\)")
ALIAS = re.compile(r"\{(\d+)\}: \((\d+), \{\}")
ONE_STEP = [name for name in CASES if name != "preference"]


def parameters(compiled):
    """Number -> (name, entries) of the program's arguments."""
    found = [m for line in compiled.entry if (m := PARAMETER.match(line))]
    return {int(number): (name, size(shape)) for name, shape, number in (m.groups() for m in found)}


@pytest.mark.parametrize("name", CASES)
def test_every_leaf_of_the_state_is_written_where_it_was(name):
    compiled = program(name)
    header = compiled.text[: compiled.text.index("entry_computation_layout")]
    leaves = len(jax.tree.leaves(compiled.state))
    assert {int(out): int(into) for out, into in ALIAS.findall(header)} == {i: i for i in range(leaves)}
    held = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(compiled.state) if x.dtype != compiled.state.rng.dtype
    )
    assert held <= compiled.memory.alias_size_in_bytes <= held + 64


@pytest.mark.parametrize("name", CASES)
def test_no_array_of_the_state_is_copied(name):
    """A copy of a donated array means that something still reads the old value after the new one is written."""
    compiled = program(name)
    donated = {n for _, (n, entries) in parameters(compiled).items() if n.startswith("state_") and entries > 2}
    copied = [m[4] for line in compiled.entry if (m := INSTRUCTION.match(line)) and m[3].startswith("copy")]
    assert donated
    assert not [c for c in copied if c.split("%")[-1] in donated]


@pytest.mark.parametrize("name", ONE_STEP)
def test_moments_are_read_by_the_one_pass_that_replaces_them(name):
    """Gradient and old moment give the new one; parameter and new moments give the new parameter."""
    compiled = program(name)
    users = collections.defaultdict(list)
    for line in compiled.entry:
        if m := INSTRUCTION.match(line):
            for operand in re.findall(r"%([\w.-]+)", m[4]):
                users[operand].append((m[3], m[1], size(m[2])))
    moments = [(n, k) for n, k in parameters(compiled).values() if re.search(r"opt_state.*__[mn]u_", n) and k > 2]
    assert len(moments) == sum(x.size > 2 for x in jax.tree.leaves(compiled.state.opt_state)) > 0
    for moment, entries in moments:
        assert len(users[moment]) == 1, (moment, users[moment])
        kind, successor, written = users[moment][0]
        assert (kind, written) == ("fusion", entries)
        readers = [user for user in users[successor] if user[0] not in ("tuple", "get-tuple-element")]
        assert len(readers) == 1, (moment, readers)


# Bytes of temporary arrays, measured and a fifth more: activations, logits, gradients.
TEMPORARY = {
    "dense": 2_450_000,
    "average of two microbatches": 770_000,
    "adapter": 1_450_000,
    "experts": 2_200_000,
    "preference": 3_000_000,
}


@pytest.mark.parametrize("name", TEMPORARY)
def test_temporary_memory_stays_below_its_ceiling(name):
    assert program(name).memory.temp_size_in_bytes <= TEMPORARY[name]
