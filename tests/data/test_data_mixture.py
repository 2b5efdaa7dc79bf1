"""Sources by weight, and epochs in parts: pure functions of a position, nothing lost or repeated, shares of tokens."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.config import Data, Pretrain
from jaxpo.data.packing import orders, plan
from jaxpo.data.packing.caps import choose_caps
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.mixture import Mixture
from jaxpo.data.tokens.shares import Share
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import ConfigError
from jaxpo.stages.loaders import _too_often

SOURCE = st.tuples(st.integers(1, 40), st.integers(1, 30), st.floats(0.01, 10))


def mixture(sources, *, seed=0, shuffle=True):
    firsts = itertools.accumulate((n for n, *_ in sources), initial=0)
    shares = [Share(f"s{i}", a, n, n * t, w) for i, (a, (n, t, w)) in enumerate(zip(firsts, sources, strict=False))]
    return Mixture(tuple(shares), seed, shuffle)


def events(mixed, n):
    """The sources of the first n examples, by the definition: all times of all examples, sorted exactly."""
    times = [(Fraction(2 * j + 1, rate), s) for s, rate in enumerate(mixed._rates) for j in range(n)]
    return [s for _, s in sorted(times)[:n]]


@settings(max_examples=40, deadline=None)
@given(sources=st.lists(SOURCE, min_size=1, max_size=4), seed=st.integers(0, 9), data=st.data())
def test_a_mixture_is_its_sources_in_the_order_of_their_times(sources, seed, data):
    """Whatever stretches it is asked for; of each source one whole epoch after another."""
    mixed = mixture(sources, seed=seed)
    n = mixed.examples
    whole = np.concatenate([mixed.take(e, 0, n) for e in range(3)])
    assert mixed.source_of(whole).tolist() == events(mixed, 3 * n)
    cut = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    pieces = [mixed.take(1, a, b) for a, b in itertools.pairwise([0, *cut, n])]
    assert np.concatenate(pieces).tolist() == whole[n : 2 * n].tolist()
    for s, share in enumerate(mixed.shares):
        own = whole[mixed.source_of(whole) == s]
        wanted = set(range(share.first, share.first + share.examples))
        for start in range(0, len(own) - share.examples + 1, share.examples):
            assert set(own[start : start + share.examples].tolist()) == wanted
        rest = own[len(own) // share.examples * share.examples :]
        assert len(set(rest.tolist())) == len(rest)


def test_counts_far_away_are_those_of_a_walk():
    mixed = mixture([(10**9, 900, 0.55), (7, 40, 0.05), (10**6, 300, 0.4)])
    at = 3 * 10**12 + 17
    counts = mixed.counts(at)
    assert sum(counts) == at
    tokens = [c * s.tokens / s.examples for c, s in zip(counts, mixed.shares, strict=True)]
    assert np.allclose(np.array(tokens) / sum(tokens), mixed.portions, atol=1e-9)
    walked = [mixed.counts(at + i) for i in range(1, 40)]
    for before, after in itertools.pairwise([counts, *walked]):
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 1]


def test_epochs_are_reshuffled_source_by_source():
    mixed = mixture([(30, 5, 1), (30, 5, 3)])
    flow = np.concatenate([mixed.take(e, 0, mixed.examples) for e in range(4)])
    own = [flow[mixed.source_of(flow) == s][:60] for s in (0, 1)]
    assert own[0][:30].tolist() != own[0][30:].tolist()
    assert own[0][:30].tolist() != (own[1][:30] - 30).tolist()
    still = mixture([(30, 5, 1), (30, 5, 3)], shuffle=False).take(0, 0, 20)
    assert still[still >= 30].tolist() == list(range(30, 30 + np.count_nonzero(still >= 30)))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 99))
def test_large_orders_are_permutations_of_which_any_stretch_is_known(n, seed):
    keys = orders._keys(seed, 1, 0)
    found = orders.permuted(np.arange(n), n, keys)
    assert sorted(found.tolist()) == list(range(n))
    assert orders.permuted(np.arange(n // 3, n // 2), n, keys).tolist() == found[n // 3 : n // 2].tolist()


def test_large_orders_are_as_good_as_random():
    """Where a number goes, and where its neighbour goes, is uniform: chi-squared over 64 x 64 cells; keys matter."""
    n = 1 << 17
    images = [
        orders.permuted(np.arange(n), n, orders._keys(seed, epoch, 0)) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for found in images:
        cells = np.bincount(found[:-1] * 64 // n * 64 + found[1:] * 64 // n, minlength=4096)
        assert abs(((cells - n / 4096) ** 2 / (n / 4096)).sum() - 4095) < 6 * np.sqrt(2 * 4095)
        assert abs(np.corrcoef(np.arange(n), found)[0, 1]) < 0.02
    assert all(np.mean(a == b) < 1e-3 for a, b in itertools.combinations(images, 2))


@pytest.fixture
def small_parts(monkeypatch):
    for module in (orders, plan):
        monkeypatch.setattr(module, "PART", 300)


def many(n=1000):
    return Lengths.from_lists(np.random.default_rng(0).integers(1, 20, (n, 2)).tolist())


def placed(whole, numbers):
    parts = [whole.part(number) for number in numbers]
    return [part.examples[held[held >= 0]].tolist() for part in parts for held in part.packed.blocks]


@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_in_parts_hold_everything_once(small_parts, shuffle, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "CACHE_FROM", 10)
    lengths = many()
    caps, _ = choose_caps(lengths, 64, block_rows=None, single=False, rows_per_step=64)
    whole = plan.Plan(lengths, caps, seed=0, shuffle=shuffle, cache_dir=tmp_path)
    assert whole.parts_per_epoch == 4
    epochs = [placed(whole, range(4 * e, 4 * e + 4)) for e in range(2)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(1000))
    assert (epochs[0] == epochs[1]) == (not shuffle)
    assert [whole.blocks_in(e) for e in range(2)] == list(map(len, epochs))
    at = [whole.locate(b) for b in range(whole.first_block(2))]
    assert at == [(p, i) for p in range(8) for i in range(len(whole.part(p).packed.blocks))]
    assert whole.epoch_of(whole.first_block(1)) == 1
    progress = [whole.epoch_of(b) for b in range(len(at))]
    assert progress == sorted(progress)
    again = plan.Plan(lengths, caps, seed=0, shuffle=shuffle, cache_dir=tmp_path)
    monkeypatch.setattr(plan, "pack", None)  # where a resumed run begins is known without packing what lies before
    assert again.locate(len(at) - 1) == at[-1]


@pytest.fixture
def mixed_loader(prepared, files):
    """Loaders of ten texts as sources of three and seven."""
    found = prepared(files / "text.jsonl", "language", roles=("text",), max_length=16)
    n = len(found)
    assert n >= 4
    totals = found.lengths.totals()
    shares = (
        Share("few", 0, 2, int(totals[:2].sum()), 0.7, 40.0),
        Share("rest", 2, n - 2, int(totals[2:].sum()), 0.3),
    )
    found = dataclasses.replace(found, shares=shares)

    def make(**options):
        return Loader(found, Data(max_length=16, row_length=32), seed=1, rows_per_step=4, **options)

    return make


def ids(batch):
    return batch.example_id[batch.example_id >= 0].tolist()


def test_batches_of_a_mixture_are_counted_by_source(mixed_loader):
    loader = mixed_loader()
    seen, tokens = [], 0
    for step in range(30):
        at = step * loader.rows_per_step
        figures = loader.figures_of(at)
        for share in loader.dataset.shares:
            own = [i for i in seen if share.first <= i < share.first + share.examples]
            assert figures[f"epoch/{share.name}"] == len(own) / share.examples
            assert figures[f"num_tokens/{share.name}"] == loader.dataset.lengths.totals()[own].sum()
        batch = loader.batch(at)
        seen += ids(batch)
        tokens += int((batch.segment_ids > 0).sum())
    assert sum(loader.figures_of(30 * 4)[f"num_tokens/{s.name}"] for s in loader.dataset.shares) == tokens


def test_any_number_of_processes_reads_the_same_mixture(mixed_loader):
    whole, halves = mixed_loader(), [mixed_loader(process_index=i, process_count=2) for i in range(2)]
    for at in (40, 0, 12):
        assert ids(whole.batch(at)) == [i for half in halves for i in ids(half.batch(at))]
    assert {loader.hash for loader in (whole, *halves)} == {whole.hash}


def test_a_budget_beyond_a_limit_is_refused(mixed_loader):
    loader = mixed_loader()
    lines = loader.mixture_lines(4)
    assert lines[0].startswith("mix few: 70.00% of the tokens; 2 examples with ")
    with pytest.raises(ConfigError, match=r"data\.mix\.few: the stage would pass through it .* max_epochs is 40\."):
        loader.mixture_lines(40_000)


def test_how_full_the_rows_are_is_said_and_what_may_still_change(mixed_loader):
    loader = mixed_loader()
    said, _, remedy = loader.packing_line().partition("; ")
    assert said.endswith(f"about {loader.fill:.0%} of positions filled")
    assert bool(remedy) == (loader.fill < 0.85)
    assert ";" not in mixed_loader(caps=loader.caps).packing_line(), "blocks that a stage began with stay"


def test_a_limit_is_looked_at_for_every_stage_before_any_is_trained(mixed_loader):
    stage = Pretrain(name="second", data=Data(), rows_per_step=4, max_steps=10_000)
    (problem,) = _too_often(mixed_loader(), stage)
    assert problem.startswith("second: data.mix.few: the stage would pass through it ")
    assert _too_often(mixed_loader(), dataclasses.replace(stage, max_steps=1)) == []
