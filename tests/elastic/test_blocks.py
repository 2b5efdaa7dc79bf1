"""A stage's blocks: a function of its data and settings; who cannot share them is named before anything is trained."""

import dataclasses

import pytest
import stages.recipe as recipes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stages.process import on_devices

from jaxpo.data.packing.caps import choose_caps, fill_of, fuller, rows_alone, shared_problems
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import ConfigError
from jaxpo.sharding import make_mesh, row_share
from jaxpo.stages import loaders
from jaxpo.stages import run as running
from jaxpo.stages.loaders import check_rows
from jaxpo.train.rundir import RunDir

ROW = 32
datasets = st.lists(st.lists(st.integers(1, ROW), min_size=1, max_size=3), min_size=1, max_size=40)


def blocks_of(lengths, rows_per_step, **changes):
    caps, fill = choose_caps(
        lengths, ROW, **{"block_rows": None, "single": False, "rows_per_step": rows_per_step} | changes
    )
    return caps.block_rows, fill


@settings(max_examples=40)
@given(lists=datasets, rows_per_step=st.integers(1, 64), single=st.booleans())
def test_any_power_of_two_of_devices_that_blocks_can_serve_is_served(lists, rows_per_step, single):
    """Whatever fills best: what no size of block can do, none has to."""
    lengths = Lengths.from_lists(lists)
    least = int(rows_alone(lengths, ROW, 1 if single else 1 << 30)[0].max())
    assume(rows_per_step >= least)
    rows, _ = blocks_of(lengths, rows_per_step, single=single)
    assert rows >= least
    assert rows_per_step % rows == 0
    for devices in (2, 4, 8):
        possible = any(rows_per_step % (size * devices) == 0 for size in range(least, rows_per_step // devices + 1))
        assert (not shared_problems(rows_per_step, rows, devices)) == possible


def test_small_blocks_are_taken_where_they_fill_about_as_well():
    even = Lengths.from_lists([[15, 15]] * 200)  # 30 of 32 in a row of its own
    assert blocks_of(even, 64) == (1, pytest.approx(30 / 32, abs=0.01))
    uneven = Lengths.from_lists([[10, 10]] * 200)  # 20 of 32 in a row of its own; three pairs fill two rows
    assert blocks_of(uneven, 64) == (2, pytest.approx(60 / 64, abs=0.01))
    assert blocks_of(uneven, 8) == (1, pytest.approx(20 / 32)), "eight rows are to serve eight devices"


def test_the_larger_block_that_is_named_fills_what_is_said():
    uneven = Lengths.from_lists([[10, 10]] * 200)
    caps, fill = choose_caps(uneven, ROW, block_rows=None, single=False, rows_per_step=8)
    rows, more = fuller(uneven, caps, 8, fill)
    larger, _ = choose_caps(uneven, ROW, block_rows=rows, single=False, rows_per_step=8)
    assert (rows, more) == (2, pytest.approx(60 / 64, abs=0.01))
    assert more == fill_of(uneven, larger)
    assert fuller(uneven, larger, 8, more) is None, "nothing that is larger still gains"
    wide = Lengths.from_lists([[20]] * 200)
    caps, fill = choose_caps(wide, ROW, block_rows=None, single=False, rows_per_step=8)
    assert fill == pytest.approx(20 / 32)
    assert fuller(wide, caps, 8, fill) is None, "two of these lie in no row, however many there are"


@given(rows=st.integers(1, 96), block=st.integers(1, 12), sharers=st.integers(1, 12))
def test_the_counts_that_are_named_are_those_that_can(rows, block, sharers):
    problems = shared_problems(rows, block, sharers)
    assert bool(problems) == bool(rows % (block * sharers))
    if not rows % block and problems:
        (problem,) = problems
        named = problem.partition("must be one of ")[2].partition(".")[0].split(", ")
        assert [int(n) for n in named] == [n for n in range(1, rows + 1) if rows % (block * n) == 0]
        assert not shared_problems(block * sharers, block, sharers), "the multiple that is named is one"
        assert f"a multiple of {block * sharers}" in problem


def test_one_process_passes_all_rows():
    assert row_share(make_mesh({"fsdp": 4, "tensor": 2})) == (0, 1)


@pytest.fixture
def recipe(tmp_path):
    recipes.write_data(tmp_path)
    return recipes.recipe(tmp_path)


def with_last(run, **changes):
    """The recipe with another preference stage, the last that is trained."""
    *before, last, merge = run.stages
    return dataclasses.replace(run, stages=(*before, dataclasses.replace(last, **changes), merge))


def test_a_later_stage_that_cannot_be_shared_stops_a_run_before_the_first_trains(recipe, monkeypatch):
    """By its pairs, which take two rows each once rows are as short as their segments."""
    on_devices(monkeypatch, 2)
    monkeypatch.setattr(running, "run_all", lambda *_: pytest.fail("trains"))
    last = recipe.stages[2]
    narrow = dataclasses.replace(last.data, max_length=40, row_length=40)
    message = (
        r"^preference: rows_per_step=4 is 2 blocks of 2 rows, which 4 cannot share evenly: gradient_accumulation_steps "
        r"times data-parallel devices must be one of 1, 2\. Or make rows_per_step a multiple of 8, or data\.block_rows"
    )
    with pytest.raises(ConfigError, match=message):
        running.execute(with_last(recipe, data=narrow, gradient_accumulation_steps=2))


def test_rows_that_no_block_could_share_stop_it_before_data_are_read(recipe, monkeypatch):
    on_devices(monkeypatch, 2)
    monkeypatch.setattr(running, "make_inputs", lambda *_: pytest.fail("reads"))
    with pytest.raises(ConfigError, match=r"^preference: rows_per_step=6 is 6 blocks of 1 row, which 4 cannot"):
        running.execute(with_last(recipe, rows_per_step=6, gradient_accumulation_steps=2))


def test_a_stage_that_has_finished_asks_nothing_of_the_devices(recipe, tmp_path, monkeypatch):
    """Its four rows are no matter to eight devices, which the others' eight rows serve."""
    first, *others = recipe.stages[:3]
    stages = (first, *(dataclasses.replace(stage, rows_per_step=8) for stage in others))
    run, mesh = dataclasses.replace(recipe, stages=stages), make_mesh({"fsdp": 8})
    with RunDir(tmp_path / "run") as home:
        with pytest.raises(ConfigError, match=r"^pretrain: rows_per_step=4 .* which 16 cannot share"):
            check_rows(run, mesh, home)
        monkeypatch.setattr(loaders, "has_model", lambda folder: folder == home.stage("pretrain"))
        check_rows(run, mesh, home)
