"""W12: contestants that are held in processes of their own, llama.cpp's names, and what its ceilings say."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.engine import CASES, FLOAT, INT8, SMALL, Case, Ceilings
from benchmarks.held import Held, in_turn
from benchmarks.measure import ChildFailed

from jaxpo.convert.gguf.names import gguf_name
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves

COUNTER = """
import os

def make(start):
    seen = [int(start)]

    def run(step):
        if step < 0:
            raise ValueError("it only counts upwards")
        seen[0] += step
        return [seen[0], os.getpid()]

    return run
"""


@pytest.fixture
def counter(tmp_path, monkeypatch):
    (tmp_path / "counter.py").write_text(COUNTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "counter"


def test_a_held_contestant_keeps_what_it_made_and_tells_its_own_time_and_memory(counter):
    with Held(counter, "make", "5", threads=1) as one, Held(counter, "make", "0", threads=1) as other:
        assert one.call(2).result[0] == 7
        found = in_turn({"one": lambda i: one.call(i), "other": lambda i: other.call(i)}, 2)
        last, process = one.call(0).result
        assert last == 7 + 0 + 1 + 2
        assert process != other.call(0).result[1]
        assert one.peak_bytes > 1 << 20
    assert {len(times.wall) for times in found.values()} == {len(times.cpu) for times in found.values()} == {2}


def test_a_contestant_that_ends_says_why(counter):
    with Held(counter, "make", "0", threads=1) as one, pytest.raises(ChildFailed, match="it only counts upwards"):
        one.call(-1)
    with pytest.raises(ChildFailed, match="invalid literal for int"):
        Held(counter, "make", "many", threads=1)


def test_llama_has_a_name_for_every_tensor():
    names = [tensor for _, param in leaves(param_table(SMALL)) for tensor in param.tensors]
    theirs = [gguf_name(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert {
        "token_embd.weight",
        "token_embd_norm.weight",
        "blk.0.shortconv.conv.weight",
        "blk.1.attn_q_norm.weight",
    } < {*theirs}


def test_a_ceiling_is_the_smaller_of_memory_and_products():
    decode = Case("decode", "written", 4, 8, 8, 1)
    weights = SMALL.vocab_size * 64 + 64 * (3 * 64 + 64) + 64 * (64 + 2 * 32 + 64) + 6 * 64 * 128
    rows = (4, 32)  # a step's, and those of the prompts
    slow = Ceilings(1e3, {(n, integers): 1e18 for n in rows for integers in (False, True)})
    # The weights are read once for the prompts and once for each of the eight tokens.
    assert slow.rate(decode, FLOAT, SMALL) == pytest.approx(8 / 9 * 4 * 1e3 / (4 * weights), rel=0.01)
    assert slow.rate(decode, INT8, SMALL) == pytest.approx(4 * slow.rate(decode, FLOAT, SMALL))
    quick = Ceilings(1e18, {(n, integers): 3e6 if integers else 1e6 for n in rows for integers in (False, True)})
    assert quick.rate(decode, INT8, SMALL) == pytest.approx(3 * quick.rate(decode, FLOAT, SMALL))
    # As many tokens are read as written; of those that are read the head sees none.
    each = 1e6 / (4 * weights - 2 * SMALL.vocab_size * 64)
    assert each > quick.rate(decode, FLOAT, SMALL) > 0.8 * each


def test_the_cases_are_those_of_the_goals():
    assert [(c.batch, c.prompt) for c in CASES if c.unit == "read"] == [(1, 256), (1, 2048)]
    assert [c.batch for c in CASES if c.unit == "written"] == [1, 8, 32]
    assert dataclasses.replace(CASES[1], new=10).amount == 80
