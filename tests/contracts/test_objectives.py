"""Every objective: packed == unpacked, 1x8 == 8x1 == 8 devices, whatever couples its examples."""

import functools

import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import SCORER, assert_learned, assert_same, initial, run

from jaxpo.objectives.language import next_token


def language():
    return next_token(SCORER), "text"


CASES = {"next_token": language}


@functools.cache
def case(name):
    objective, kind = CASES[name]()
    examples = [make_examples(kind, 16, seed) for seed in (0, 1)]
    baseline = run(objective, [unpacked(e) for e in examples])
    return objective, examples, baseline, initial(objective)[0]


@pytest.mark.parametrize("name", CASES)
def test_packed_equals_unpacked(name):
    objective, examples, baseline, start = case(name)
    assert_learned(baseline, start)
    assert_same(run(objective, [packed(e) for e in examples]), baseline, start)


@pytest.mark.parametrize("name", CASES)
def test_eight_microbatches_equal_one(name):
    objective, examples, baseline, start = case(name)
    assert_same(run(objective, [packed(e) for e in examples], microbatches=8), baseline, start)


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_equal_one(name):
    objective, examples, baseline, start = case(name)
    assert_same(run(objective, [packed(e) for e in examples], devices=8), baseline, start)
