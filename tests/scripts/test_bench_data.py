"""The benchmarks of data, merging, length and methods: their inputs are what they say, and they run."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks import length, methods
from benchmarks.measure import Times
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
    said = length.law(cost, {"long 16": 100.0, "long 32": 125.0}, 75.0, (16, 32))
    assert "32: 1.50 measured, 1.25 predicted (40% between positions)" in said


def test_methods_are_scaled_by_dpo_in_the_same_rounds():
    dpo, quiet, busy = Times((1.0, 1.0), (1.0, 1.0)), Times((2.0, 2.0), (2.0, 2.0)), Times((4.0, 6.0), (4.0, 6.0))
    found = {
        methods.ONLINE: methods.Measured(dpo, dpo, 1.0, 0.9, ""),
        "tdpo1": methods.Measured(quiet, busy, 1.5, 0.8, "why"),
    }
    rows = {row.name: row for row in methods.table(found, 8, ["late"]).rows}
    assert (rows["jaxpo, tdpo1"].wall, rows["jaxpo, dpo"].wall) == ((2.0, 3.0), dpo.wall)
    assert rows["jaxpo, late"].missing
    said = methods.notes(found, 0.9)
    assert "tdpo1: 2.50 times DPO's processor time, 1.50 times its products; why" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_pipeline", "merging", "length", "methods"])
def test_smoke_shapes_run(name):
    """Processes of their own, and seven compiled steps."""
    found = importlib.import_module(f"benchmarks.{name}").WORK.measure(SMOKE)
    assert found.tables
    assert all(row.wall for table in found.tables for row in table.rows if not row.missing)
