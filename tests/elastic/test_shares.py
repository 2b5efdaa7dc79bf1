"""What a step holds does not depend on who shares it: one source of packed rows, or several joined."""

import dataclasses

import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.config import Data, Preference
from jaxpo.data.packing.joined import Joined
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.stages.loaders import blocks_of_plan

DATA = Data(max_length=64, row_length=96)
STEPS = 12


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Pairs, and single responses."""
    folder = tmp_path_factory.mktemp("shares")
    recipes.write_data(folder)
    tokenizer = train_tokenizer([" ".join(recipes.WORDS)], 300)

    def read(name, purpose, roles):
        file, needs = folder / f"{name}_train.jsonl", Needs(roles=roles)
        return prepare([file], data=DATA, tokenizer=tokenizer, purpose=purpose, needs=needs, cache_dir=folder)

    return read("pref", "preference", ("chosen", "rejected")), read("sft", "sft", ("completion",))


def loader(dataset, rows=8, **sharing):
    return Loader(dataset, DATA, seed=5, rows_per_step=rows, **sharing)


def test_batches_do_not_depend_on_devices_microbatches_or_processes(datasets):
    alone = [loader(dataset, 16) for dataset in datasets]
    for dataset, one in zip(datasets, alone, strict=True):
        for sharers in (2, 4):
            shares = [loader(dataset, 16, divisor=8, process_index=i, process_count=sharers) for i in range(sharers)]
            assert {share.hash for share in shares} == {one.hash}
            for step in range(0, STEPS * 8, 16):
                tokens = np.concatenate([share.batch(step).tokens for share in shares])
                np.testing.assert_array_equal(tokens, one.batch(step).tokens)


def test_joined_steps_hold_the_same_examples_whoever_shares_them(datasets):
    """By half as many and twice as many, from step 5 on, as a run does that goes on elsewhere."""

    def ids(processes, first, last):
        found = [[] for _ in range(first, last)]
        for i in range(processes):
            parts = [(loader(dataset, process_index=i, process_count=processes), 8) for dataset in datasets]
            source = Joined(parts, divisor=processes, process_count=processes)
            feed = source.open(first * source.rows_per_step, last - first)
            for held in found:
                batch = feed.next(None)
                held += batch.example_id[batch.example_id >= 0].tolist()
            feed.close()
        return [sorted(held) for held in found]

    whole = ids(1, 0, STEPS)
    assert ids(4, 0, 5) + ids(2, 5, STEPS) == whole
    first_epoch = np.concatenate(whole)
    for part, dataset in enumerate(datasets):
        seen = np.bincount(first_epoch[first_epoch % 2 == part] // 2, minlength=len(dataset))
        assert seen.min() >= seen.max() - 1 >= 1, "no example is ahead of another by more than the epoch under way"


def test_a_checkpoint_that_names_no_blocks_goes_on_in_those_of_its_plan(datasets):
    """Version 0.1.0 chose them for its devices, and kept the hash of what came of it."""
    dataset, stage = datasets[0], Preference(data=DATA, rows_per_step=8)
    for rows in (2, 4, 8):
        data = dataclasses.replace(DATA, block_rows=rows)
        before = Loader(dataset, data, seed=5, rows_per_step=8)
        kept = {"train": dataset.hash, "plan": before.hash}
        assert blocks_of_plan(stage, dataset, 5, kept) == {"train": before.caps}
    assert blocks_of_plan(stage, dataset, 6, kept) == {}
