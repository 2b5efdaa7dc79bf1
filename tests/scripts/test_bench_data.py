"""The benchmarks of data, merging, length and methods: their inputs are what they say, and they run."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks import length, methods
from benchmarks.measure import Times
from benchmarks.subject import TINY
from benchmarks.work import Options

SMOKE = Options(repeats=1, threads=1, smoke=True, peers=False)


def test_rows_of_short_documents_are_full_and_count_from_each_start():
    batch = length.short(np.arange(48, dtype=np.int32).reshape(3, 16), (6, 10))
    assert (batch.segment_ids == np.repeat([1, 2], [6, 10])).all()
    assert (batch.positions == np.r_[0:6, 0:10]).all()
    assert (batch.max_segment, batch.slots) == (10, 2)
    assert batch.masks["completion"].sum() == 3 * 14, "a document's first token has nothing before it"
    with pytest.raises(ValueError, match="do not fill rows of 16"):
        length.short(np.zeros((1, 16), np.int32), (6, 7))


def test_the_verdict_on_flatness_and_the_law_follow_the_figures():
    cost = {"short 16": 1.0, "short 32": 1.2, "long 16": 1.0, "long 32": 1.5}
    assert "32: 1.20; flat within 30%" in length.flatness(cost, (16, 32))
    assert "not flat" in length.flatness(cost | {"short 16": 2.0}, (16, 32))
    assert "32: 1.50 measured, 1.02 predicted (4% in attention)" in length.law(TINY, cost, (16, 32))


def test_methods_are_scaled_by_dpo_in_the_same_rounds():
    dpo, quiet, busy = Times((1.0, 1.0), (1.0, 1.0)), Times((2.0, 2.0), (2.0, 2.0)), Times((4.0, 6.0), (4.0, 6.0))
    found = {methods.ONLINE: (dpo, dpo), "tdpo1": (quiet, busy)}
    rows = {row.name: row for row in methods.table(found, 8).rows}
    assert (rows["jaxpo, tdpo1"].wall, rows["jaxpo, dpo"].wall) == ((2.0, 3.0), dpo.wall)
    said = methods.notes(found, {methods.ONLINE: "", "tdpo1": "why"}, {methods.ONLINE: 0.9, "tdpo1": 0.8}, 0.9)
    assert "tdpo1: 2.50 times DPO's processor time; why" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_pipeline", "merging", "length", "methods"])
def test_smoke_shapes_run(name):
    """Processes of their own, and seven compiled steps."""
    found = importlib.import_module(f"benchmarks.{name}").WORK.measure(SMOKE)
    assert found.tables
    assert all(row.wall for table in found.tables for row in table.rows if not row.missing)
