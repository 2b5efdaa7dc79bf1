"""Batches give every example back exactly, for every type; they depend on the position alone."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from data.feeds import fed

from jaxpo.config import Data
from jaxpo.data.packing.batch import rows_of
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.ops.segments import segment_bounds

KINDS = {
    "text": ("language", ("text",), ()),
    "messages": ("sft", ("completion",), ()),
    "prompt_completion": ("sft", ("completion",), ()),
    "preference": ("preference", ("chosen", "rejected"), ("margin",)),
    "preference_chat": ("preference", ("chosen", "rejected"), ()),
    "two_prompt": ("preference", ("chosen", "rejected"), ()),
    "triple": ("preference", ("chosen", "rejected", "gold"), ()),
    "unpaired": ("preference", ("completion",), ("label",)),
    "list": ("preference", ("candidate",), ("scores",)),
    "rewards": ("preference", ("chosen", "rejected"), ("rewards",)),
    "annotators": ("preference", ("chosen", "rejected"), ("annotator", "votes")),
    "rationale": ("preference", ("chosen", "rejected", "rationale"), ()),
    "weights": ("preference", ("completion", "kl"), ("label", "weight")),
    "tree": ("preference", ("candidate",), ("scores",)),
    "items": ("preference", ("items",), ("relevance",)),
    "spans": ("preference", ("chosen", "rejected"), ()),
    "keywords": ("preference", ("chosen", "rejected"), ()),
    "mapl": ("preference", ("chosen", "rejected"), ()),
    "rated": ("preference", ("completion",), ("ratings",)),
    "rated_prompts": ("preference", ("completion",), ("ratings",)),
    "steps": ("preference", ("completion",), ("labels",)),
    "groups": ("preference", ("chosen", "rejected"), ("tie", "user", "group")),
}
MARKS = {"tree": ("step",), "items": ("item",), "spans": ("phrase",), "keywords": ("keyword",), "steps": ("step_end",)}
OPTIONAL = {
    "mapl": (
        *("inter_chosen", "inter_rejected", "intra_chosen_plus", "intra_chosen_minus"),
        *("intra_rejected_plus", "intra_rejected_minus"),
    ),
}
DATA = Data(max_length=128, row_length=128)


@pytest.fixture
def dataset(prepared, files):
    def make(name):
        purpose, roles, columns = KINDS[name]
        return prepared(
            files / f"{name}.jsonl",
            purpose,
            roles=roles,
            columns=columns,
            per_token=MARKS.get(name, ()),
            optional_roles=OPTIONAL.get(name, ()),
            max_length=128,
        )

    return make


def make_loader(dataset, rows_per_step=4, seed=3, data=DATA, **more):
    return Loader(dataset, data, seed=seed, rows_per_step=rows_per_step, **more)


def assert_same(a, b):
    for (path, x), (_, y) in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (a, b)), strict=True):
        assert x.dtype == y.dtype, path
        assert np.array_equal(x, y), path


def read_back(batch, n):
    """Example n as {role: [(tokens, completion mask, prompt mask, columns), ...]}, by the batch contract alone."""
    per_block = len(batch.example_id) // batch.blocks
    first_row = n // per_block * batch.block_rows
    found = {}
    for role, table in batch.roles.items():
        found[role] = []
        for index in np.atleast_1d(table[n]):
            if index < 0:
                found[role].append(None)
                continue
            row, slot = first_row + index // batch.slots, index % batch.slots
            at = np.flatnonzero(batch.segment_ids[row] == slot + 1)
            assert np.array_equal(np.diff(at), np.ones(len(at) - 1)), "segments are contiguous"
            assert np.array_equal(batch.positions[row, at], np.arange(len(at)))
            assert len(at) <= batch.max_segment
            found[role].append(
                (
                    *(x[row, at] for x in (batch.tokens, batch.masks["completion"], batch.masks["prompt"])),
                    {name: x[row, at] for name, x in batch.per_token.items()},
                )
            )
    return found


def check_batch(batch, dataset):
    """Compare with the stored examples; returns how many examples it held."""
    padding = batch.segment_ids == 0
    assert not any(mask[padding].any() for mask in batch.masks.values())
    assert set(batch.per_token) == set(dataset.per_token)
    for label in batch.per_token.values():
        assert label.dtype == np.int32
        assert not label[~batch.masks["completion"]].any(), "only supervised tokens are labelled"
    assert (batch.tokens[padding] == dataset.tokenizer.pad_id).all()
    segments = 0
    for n, number in enumerate(batch.example_id):
        if number < 0:
            assert all((table[n] == -1).all() for table in batch.roles.values())
            for name, column in batch.per_example.items():
                fill = {"relevance": -1, "labels": -1, "ratings": np.nan}.get(name, 0)
                np.testing.assert_array_equal(column[n], np.full_like(column[n], fill))
            continue
        example = dataset.store.read([number])[0]
        found = read_back(batch, n)
        for role, index in example.roles.items():
            wanted = index if isinstance(index, list) else [index]
            for got, i in itertools.zip_longest(found[role], wanted, fillvalue=None):
                if i is None or i < 0:
                    assert got is None
                    continue
                segment = example.segments[i]
                tokens, completion, prompt, columns = got
                for name, values in columns.items():
                    assert np.array_equal(values, segment.per_token.get(name, np.zeros_like(values)))
                assert np.array_equal(tokens, segment.tokens)
                assert not completion[0]
                assert not prompt[0]
                assert np.array_equal(completion[1:], segment.supervised[1:])
                assert np.array_equal(prompt[1:], ~segment.supervised[1:])
                segments += 1
        for name, column in batch.per_example.items():
            value = np.asarray(example.columns[name], column.dtype)
            np.testing.assert_array_equal(column[n][: len(value)] if value.ndim == 1 else column[n], value)
    _, lengths = segment_bounds(batch.segment_ids, batch.slots)
    assert (np.asarray(lengths) > 0).sum() == segments, "nothing else lies in the rows"
    return int((batch.example_id >= 0).sum())


@pytest.mark.parametrize("packing", ["best_fit", "none"])
@pytest.mark.parametrize("name", KINDS)
def test_batches_reconstruct_every_example(dataset, name, packing):
    data = dataset(name)
    loader = make_loader(data, 8, data=Data(max_length=128, row_length=128, packing=packing))
    assert {*KINDS[name][1], *OPTIONAL.get(name, ())} == set(loader.batch(0).roles)
    assert set(KINDS[name][2]) <= set(loader.batch(0).per_example)
    ids = []
    for batch in loader.one_pass():
        check_batch(batch, data)
        ids += batch.example_id[batch.example_id >= 0].tolist()
    assert sorted(ids) == list(range(len(data)))
    epochs = 3
    seen = []
    rows = sum(loader.rows_per_epoch(e) for e in range(epochs))
    for start in range(0, rows, 8):
        batch = loader.batch(start)
        check_batch(batch, data)
        seen += batch.example_id[batch.example_id >= 0].tolist()
    counts = np.bincount(seen, minlength=len(data))
    assert counts.min() >= epochs, "no row is dropped at an epoch's end"


def test_columns_keep_their_values(dataset):
    batch = next(iter(make_loader(dataset("rewards"), shuffle=False).one_pass()))
    n = int(np.flatnonzero(batch.example_id == 3)[0])
    assert batch.per_example["rewards"][n].tolist() == [[np.float32(0.1), np.float32(-0.2)], [1.0, 1.5]]
    data = dataset("rewards")
    assert data.columns["rewards"].names == ("brief", "helpful")
    batch = next(iter(make_loader(dataset("unpaired"), shuffle=False).one_pass()))
    assert batch.per_example["label"].dtype == bool
    batch = next(iter(make_loader(dataset("annotators"), shuffle=False).one_pass()))
    assert batch.per_example["annotator"].dtype == np.int32


def batch_of(prepared, path, **needs):
    data = prepared(path, "preference", **needs)
    return data, make_loader(data, shuffle=False).one_pass()[0]


def test_rewards_of_lists_and_of_single_answers(prepared, write):
    """By name in alphabetical order; 0 where a list is shorter than the longest; of pairs taken apart each side's."""
    rows = [
        {"prompt": "p ", "responses": list("abc"[:n]), "scores": [2, 1, 0][:n], "rewards": {"y": [1, 2, 3][:n], "x": x}}
        for n, x in ((3, [4, 5, 6]), (2, [7, 8]))
    ]
    data, batch = batch_of(prepared, write(*rows, name="l.jsonl"), roles=("candidate",), columns=("scores", "rewards"))
    assert data.columns["rewards"].names == ("x", "y")
    found = batch.per_example["rewards"][np.argsort(batch.example_id, kind="stable")][-2:].tolist()
    assert found == [[[4, 5, 6], [1, 2, 3]], [[7, 8, 0], [1, 2, 0]]]

    pairs = [{"prompt": "p ", "chosen": "good", "rejected": "bad", "rewards": {"r": [0.5, -1]}}]
    _, apart = batch_of(prepared, write(*pairs, name="p.jsonl"), roles=("completion",), columns=("label",))
    label = apart.per_example["label"]
    good, bad = (apart.per_example["rewards"][(apart.example_id >= 0) & (label == which)] for which in (True, False))
    assert (good.tolist(), bad.tolist()) == ([[0.5]], [[-1.0]])


def test_batches_are_a_function_of_the_position(dataset):
    data = dataset("preference")
    a, b = make_loader(data), make_loader(data)
    positions = range(0, 40, 4)
    forward = [a.batch(p) for p in positions]
    for p, batch in reversed(list(zip(positions, forward, strict=True))):
        assert_same(b.batch(p), batch)
    for start in (0, 8, 20):
        for i, batch in enumerate(fed(make_loader(data), start, 5)):
            assert_same(batch, a.batch(start + 4 * i))
    assert a.hash == b.hash != make_loader(data, seed=4).hash


def test_other_step_sizes_read_the_same_sequence(dataset):
    """rows_seen is the position: the batch size may change on resume."""
    data = dataset("preference")
    settings = Data(max_length=128, row_length=128, block_rows=2)
    small, large = (make_loader(data, rows, data=settings) for rows in (2, 8))
    assert small.hash == large.hash
    parts = [small.batch(16 + 2 * i) for i in range(4)]
    assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), large.batch(16))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_step(dataset, processes):
    data = dataset("triple")
    settings = Data(max_length=128, row_length=128, block_rows=2)
    whole = make_loader(data, 8, data=settings)
    shares = [make_loader(data, 8, data=settings, process_index=i, process_count=processes) for i in range(processes)]
    assert {loader.hash for loader in shares} == {whole.hash}
    for rows_seen in range(0, 48, 8):
        parts = [loader.batch(rows_seen) for loader in shares]
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole.batch(rows_seen))
    passes = [loader.one_pass() for loader in shares]
    for i, batch in enumerate(whole.one_pass()):
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *[p[i] for p in passes]), batch)


def test_shapes_never_change(dataset):
    for name in ("list", "messages"):
        loader = make_loader(dataset(name), 8)
        shapes = {
            (tuple(x.shape for x in jax.tree.leaves(b)), b.slots, b.block_rows, b.max_segment)
            for b in [*(loader.batch(p) for p in range(0, 160, 8)), *loader.one_pass()]
        }
        assert len(shapes) == 1


def test_shuffle_changes_epochs_and_can_be_off(prepared, write):
    data = prepared(write(*({"text": f"document number {i}"} for i in range(40))), "language")
    settings = Data(max_length=64, row_length=64)
    loader = Loader(data, settings, seed=0, rows_per_step=1)

    def order(loader, epoch):
        first = sum(loader.rows_per_epoch(e) for e in range(epoch))
        batches = [loader.batch(first + i) for i in range(loader.rows_per_epoch(epoch))]
        return [i for b in batches for i in b.example_id.tolist() if i >= 0]

    assert sorted(order(loader, 0)) == sorted(order(loader, 1)) == list(range(40))
    assert order(loader, 0) != order(loader, 1)
    still = Loader(data, settings, seed=0, rows_per_step=1, shuffle=False)
    assert order(still, 0) == order(still, 1)
    rows = loader.rows_per_epoch(0)
    assert (loader.epoch_of(0), loader.epoch_of(rows)) == (0.0, 1.0)
    assert 0 < loader.epoch_of(rows - 1) < 1 < loader.epoch_of(rows + 1) < 2


def test_given_order_is_followed(prepared, write):
    data = prepared(write(*({"text": f"{i} " * 20} for i in range(30))), "language")
    order = np.arange(30)[::-1]
    loader = Loader(data, Data(max_length=64, row_length=64, packing="none"), seed=0, rows_per_step=1, order=order)
    assert [int(loader.batch(i).example_id[0]) for i in range(30)] == order.tolist()


def test_per_token_columns_come_back_in_place(dataset, tmp_path):
    """What one pass computes per token is what training reads beside the same tokens."""
    data = dataset("list")
    column = RaggedColumn.create(tmp_path / "ref", data.lengths, "key")
    sweep = make_loader(data).one_pass(rows_per_step=8)

    def score(batch):  # a stand-in for a model: depends on token and position, 0 where nothing is predicted
        return np.where(batch.positions > 0, batch.tokens * 0.5 - batch.positions, 0).astype(np.float32)

    for i in reversed(range(len(sweep))):
        sweep.scatter(i, score(sweep[i]), column)
    assert column.complete()
    loader = make_loader(data, columns=(column,))
    for start in range(0, 40, 4):
        batch = loader.batch(start)
        expected = np.where(batch.segment_ids > 0, score(batch), 0)
        assert np.array_equal(batch.per_token["ref_logps"], expected)
        sums = rows_of(batch.per_token["ref_logps"] * batch.masks["completion"], batch.roles["candidate"], batch).sum(
            -1
        )
        for n, number in enumerate(batch.example_id):
            if number < 0:
                continue
            example = data.store.read([number])[0]
            for k, s in enumerate(example.roles["candidate"]):
                if s >= 0:
                    trained = example.segments[s].supervised
                    assert np.isclose(sums[n, k], column.get(number, s)[trained].sum(), rtol=1e-5)


def test_steps_that_cannot_be_cut(dataset):
    data = dataset("preference")
    with pytest.raises(
        ConfigError, match=r"rows_per_step=6 is . blocks of . rows?, which 4 cannot share evenly: .*one of 1, "
    ):
        make_loader(data, 6, divisor=4)
    settings = Data(max_length=128, row_length=128, block_rows=4)
    with pytest.raises(ConfigError, match=r"rows_per_step=6 is not whole blocks of 4 rows; use 4 or 8"):
        make_loader(data, 6, data=settings)
    with pytest.raises(
        ConfigError, match=r"is 2 blocks of 4 rows, which 4 .* of 1, 2\. Or make rows_per_step a multiple of 16"
    ):
        make_loader(data, 8, divisor=4, data=settings)
    loader = make_loader(data, 8, data=settings)
    with pytest.raises(RunError, match=r"rows_seen=2 is not a multiple of the block size 4"):
        loader.batch(2)
    with pytest.raises(ConfigError, match=r"rows per batch \(6\) must be a multiple of 4"):
        loader.one_pass(rows_per_step=6)


def test_real_problems(shared_data, prepared, write):
    import gzip
    import json

    with gzip.open(shared_data / "gsm8k_test.jsonl.gz") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 400)]
    chat = [
        {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
        for r in rows
    ]
    data = prepared(write(*chat), max_length=768)
    loader = Loader(data, Data(max_length=768, row_length=1024), seed=0, rows_per_step=8)
    assert loader.plan.part(0).packed.fill(data.lengths, loader.caps) > 0.93
    held = 0
    for batch in loader.one_pass():
        held += check_batch(batch, data)
    assert held == 400


def test_an_error_while_reading_ahead_reaches_the_user(dataset):
    data = dataset("messages")
    with (data.store.directory / "examples.array_record").open("r+b") as file:
        file.seek(100)
        file.write(b"\0" * 200)
    with pytest.raises(DataError, match=r"examples.array_record: cannot be read"):
        fed(make_loader(data), 0, 8)
