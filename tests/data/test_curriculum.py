"""From easy to hard: rising phases, a mixed share, the same after a resume; rows without a number are named."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from data.feeds import fed
from hypothesis import given

from jaxpo.config import Curriculum, Data
from jaxpo.data.packing.curriculum import curriculum_order, easy_to_hard, read_difficulties
from jaxpo.data.packing.loader import Loader
from jaxpo.errors import DataError

HARD = np.random.default_rng(0).permutation(400) / 400


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
def test_every_example_comes_once(difficulties, phases, mix, seed):
    order = easy_to_hard(np.asarray(difficulties), phases, mix, seed)
    assert sorted(order.tolist()) == list(range(len(difficulties)))
    np.testing.assert_array_equal(order, easy_to_hard(np.asarray(difficulties), phases, mix, seed))


def test_without_a_mixed_share_no_phase_holds_anything_harder_than_the_next():
    parts = np.split(HARD[easy_to_hard(HARD, 4, 0.0, 1)], 4)
    for easier, harder in itertools.pairwise(parts):
        assert easier.max() < harder.min()
    for part in parts:
        assert (np.diff(part) < 0).any(), "shuffled inside a phase"


def test_as_many_phases_as_examples_sort_them():
    np.testing.assert_array_equal(HARD[easy_to_hard(HARD, 400, 0.0, 1)], np.sort(HARD))
    np.testing.assert_array_equal(HARD[easy_to_hard(HARD, 9999, 0.0, 1)], np.sort(HARD))


@pytest.mark.parametrize("mix", [0.1, 0.5])
def test_the_mixed_share_is_spread_evenly_over_the_phases(mix):
    """An example out of its phase is a mixed one: (1 - 1/4) of them on average; phases stay equally long."""
    places = np.argsort(easy_to_hard(HARD, 4, mix, 3), kind="stable") // 100
    own = np.argsort(np.argsort(HARD, kind="stable"), kind="stable") // 100
    assert abs((places != own).mean() - 0.75 * mix) < 0.12 * mix + 0.04 * mix**0.5
    easy = own == 0
    found = np.bincount(places[easy], minlength=4) / 100
    assert found[0] > 1 - mix
    assert (found[1:] > 0).all(), "easy ones come up to the end"


@pytest.mark.parametrize("settings", [(1, 0.0), (4, 1.0)])
def test_one_phase_or_everything_mixed_is_a_shuffle(settings):
    order = HARD[easy_to_hard(HARD, *settings, 5)]
    assert abs(np.corrcoef(np.arange(400), order)[0, 1]) < 0.15


def test_ties_are_broken_by_the_seed():
    ties = np.zeros(50)
    first, second = (easy_to_hard(ties, 50, 0.0, seed) for seed in (0, 1))
    assert first.tolist() != list(range(50))
    assert first.tolist() != second.tolist()


def test_golden_order():
    """Pinned: resuming after an upgrade of numpy or of this code must not silently reorder the data."""
    assert easy_to_hard(np.arange(8.0), 2, 0.25, 0).tolist() == [6, 1, 2, 3, 4, 7, 0, 5]


def test_ungraded_examples_are_dealt_over_all_phases_beside_the_mixed_share():
    some = np.where(np.arange(400) % 4 == 0, np.nan, HARD)
    parts = np.split(some[easy_to_hard(some, 4, 0.0, 1)], 4)
    assert [int(np.isnan(part).sum()) for part in parts] == [25, 25, 25, 25]
    for easier, harder in itertools.pairwise(parts):
        assert np.nanmax(easier) < np.nanmin(harder)


def test_rows_without_the_column_may_be_ungraded_where_the_curriculum_says_so(prepared, write):
    rows = [{"prompt": f"q {i}", "completion": "a", **({"difficulty": -i} if i % 2 else {})} for i in range(8)]
    file, curriculum = write(*rows), Curriculum(phases=4, mix=0.0, ungraded="spread")
    difficulties = read_difficulties([file], curriculum)
    assert difficulties == {(0, i + 1): -i for i in (1, 3, 5, 7)}
    order = curriculum_order(prepared(file, max_length=32), difficulties, curriculum, seed=0)
    assert [i for i in order if i % 2] == [7, 5, 3, 1]
    assert all(len({i % 2 for i in phase}) == 2 for phase in np.split(order, 4))


@pytest.fixture
def dataset(prepared, write):
    rows = [{"prompt": f"q {i}", "completion": "a " * (1 + i % 5), "difficulty": float(HARD[i])} for i in range(60)]
    file = write(*rows)
    data = prepared(file, max_length=32)
    return dataclasses.replace(
        data, order=curriculum_order(data, read_difficulties([file], Curriculum()), Curriculum(mix=0.2), seed=7)
    )


def loader(dataset):
    return Loader(dataset, Data(max_length=32, row_length=32), seed=7, rows_per_step=2)


def test_the_loader_follows_the_dataset_s_order_in_every_epoch(dataset):
    made = Loader(dataset, Data(max_length=32, row_length=32, packing="none"), seed=7, rows_per_step=1)
    seen = [int(made.batch(i).example_id[0]) for i in range(120)]
    assert seen == [*dataset.order.tolist(), *dataset.order.tolist()]
    once = [int(i) for batch in made.one_pass() for i in batch.example_id if i >= 0]
    assert once == list(range(60)), "one pass stays in file order"


def test_packing_keeps_the_order_up_to_its_window(prepared, write):
    """Best-fit looks at 256 examples at a time; beyond that what is easier comes first."""
    n = 1536
    hard = np.random.default_rng(1).permutation(n) / n
    file = write(*({"prompt": "q", "completion": "a " * (1 + i % 7), "difficulty": x} for i, x in enumerate(hard)))
    data = prepared(file, max_length=32)
    order = curriculum_order(data, read_difficulties([file], Curriculum()), Curriculum(phases=n, mix=0.0), seed=0)
    made = loader(dataclasses.replace(data, order=order))
    means = [hard[(ids := made.batch(at).example_id)[ids >= 0]].mean() for at in range(0, made.rows_per_epoch(0), 2)]
    assert np.corrcoef(np.arange(len(means)), means)[0, 1] > 0.9
    quarter = len(means) // 4
    assert np.mean(means[:quarter]) < 0.15
    assert np.mean(means[-quarter:]) > 0.8


def test_a_loader_made_anew_in_the_middle_goes_on_exactly(dataset):
    whole = fed(loader(dataset), 0, 30)
    again = fed(loader(dataset), 2 * 11, 19)
    for a, b in zip(whole[11:], again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert loader(dataset).hash != loader(dataclasses.replace(dataset, order=None)).hash
    assert loader(dataset).hash != loader(dataclasses.replace(dataset, order=dataset.order[::-1])).hash


def test_pieces_of_a_document_share_its_difficulty(prepared, write):
    file = write(*({"text": "word " * 40 * (1 + i), "difficulty": -i} for i in range(3)))
    data = prepared(file, "language", roles=("text",), max_length=32)
    order = curriculum_order(data, read_difficulties([file], Curriculum()), Curriculum(phases=99, mix=0.0), seed=0)
    rows = [example.row for example in data.store.read(order)]
    assert len(rows) > 6
    assert rows == sorted(rows, reverse=True)


def test_rows_of_several_files_are_told_apart(prepared, write):
    files = [write({"prompt": "q", "completion": "a", "difficulty": d}, name=f"{d}.jsonl") for d in (2, 1)]
    assert read_difficulties(files, Curriculum()) == {(0, 1): 2.0, (1, 1): 1.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "the curriculum's column is missing"),
        ({"hard": None}, "the curriculum's column is missing"),
        ({"hard": "core"}, "'core' is not a difficulty"),
        ({"hard": True}, "True is not a difficulty"),
        ({"hard": float("nan")}, "nan is not a difficulty"),
    ],
)
def test_a_row_without_a_difficulty_is_named(write, value, message):
    file = write({"prompt": "q", "completion": "a", "hard": 1}, {"prompt": "q", "completion": "a", **value})
    with pytest.raises(DataError) as error:
        read_difficulties([file], Curriculum("hard"))
    assert str(error.value).startswith(f"{file}, row 2, field 'hard': {message}")
    assert "`jaxpo data difficulty` predicts it" in str(error.value)
