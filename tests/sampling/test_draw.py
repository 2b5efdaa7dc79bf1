"""Draws: the distribution they claim, rows that know nothing of one another, rows that fail, one program for all."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from sampling.rows import asks, filtered, processed, settings_of, softmax
from scipy import stats

from jaxpo.sampling import draw as module
from jaxpo.sampling.draw import CANDIDATES, draw, top_logps
from jaxpo.sampling.request import TOP_LOGPS

drawn = jax.jit(draw)
GREEDY = {"temperature": 0.0}
FILTERED = {"temperature": 0.7, "top_k": 6, "top_p": 0.9, "min_p": 0.02}
WIDE = 600
"""Ids: more than the candidates, and no multiple of a block."""
ROWS = 6
"""Most tests draw so many rows of `WIDE` ids, so that one compiled program serves them."""


def six(requests):
    """With greedy rows behind them."""
    return [*requests, *[asks(**GREEDY)] * (ROWS - len(requests))]


def from_start(requests):
    """Buffers of rows that have their prompts."""
    tokens = np.zeros((len(requests), 8), np.int32)
    for i, request in enumerate(requests):
        tokens[i, : len(request.prompt)] = request.prompt
    return tokens, np.asarray([len(r.prompt) for r in requests], np.int32)


def draw_rows(logits, requests, *, seed=0, program=drawn, **options):
    held = settings_of(requests, logits.shape[1], seed=seed, **options)
    return jax.device_get(program(logits, held, *from_start(requests)))


def many(logits, requests, count, seed=0, **options):
    """`count` draws of the requests in turn, each with a key of its own, in one batch."""
    one = settings_of(requests, logits.shape[-1], **options)
    held = jax.tree.map(lambda x: np.resize(x, (count, *x.shape[1:])), one)
    keys = np.random.default_rng(seed).integers(0, 2**32, (count, 2), dtype=np.uint32)
    tokens, length = from_start(requests)
    return jax.device_get(
        drawn(
            jnp.asarray(np.resize(np.atleast_2d(logits), (count, logits.shape[-1]))),
            held.replace(keys=keys),
            np.resize(tokens, (count, 8)),
            np.resize(length, count),
        )
    )


def fits(tokens, p):
    """The p-value of the counts under p, ids expected less than five times being put together."""
    seen, expected = np.bincount(tokens, minlength=len(p)), len(tokens) * p
    assert seen[p == 0].sum() == 0
    rare = expected < 5
    seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    seen, expected = seen[expected > 0], expected[expected > 0]
    return stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue


# Very different rows, as neighbours of one another.
MIXED = [
    asks(),
    asks(**GREEDY),
    asks(**FILTERED),
    asks(temperature=3.0, top_p=0.8),
    asks(min_p=0.2),
    asks(logit_bias={3: 2.0}, banned_ids=(5,)),
    asks(prompt=(1, 2), repetition_penalty=1.5, top_k=3),
    asks(prompt=(1,), forced_ids=(6,)),
]


@pytest.fixture(scope="module")
def mixed():
    """32,000 draws of the mixed rows from one row of logits: (logits, tokens of every row)."""
    logits = np.random.default_rng(5).normal(size=8).astype(np.float32)
    return logits, many(logits, MIXED, 32_000)


@pytest.mark.parametrize("row", [0, 2, 3, 4, 5, 6])
def test_draws_follow_the_sampling_distribution_beside_very_different_rows(mixed, row):
    logits, got = mixed
    tokens, mine = got.tokens[row :: len(MIXED)], slice(row, None, len(MIXED))
    p = softmax(filtered(processed(logits, MIXED[row]), MIXED[row].sampler))
    assert fits(tokens, p) > 1e-3
    np.testing.assert_allclose(got.sampling_logps[mine], np.log(p[tokens]), atol=1e-5)
    np.testing.assert_allclose(got.logps[mine], np.log(softmax(logits.astype(np.float64)))[tokens], atol=1e-5)


def test_a_wrong_distribution_would_be_noticed(mixed):
    """The chi-square test above has power: draws at temperature 1 do not pass for temperature 1.1."""
    logits, got = mixed
    assert fits(got.tokens[0 :: len(MIXED)], softmax(logits.astype(np.float64) / 1.1)) < 1e-3


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 2.0), ({"temperature": 0.6, "min_p": 0.01}, 2.0), ({"top_p": 0.9}, 3.0), ({"top_p": 0.8}, 0.1)],
    ids=["all", "min_p", "candidates", "whole"],
)
def test_draws_from_several_blocks_follow_the_distribution(options, scale):
    logits = np.random.default_rng(6).normal(scale=scale, size=WIDE).astype(np.float32)
    request = asks(**options)
    p = softmax(filtered(processed(logits, request), request.sampler))
    assert ((p > 0).sum() > CANDIDATES) == (options != {"top_p": 0.9} and "min_p" not in options)
    got = [many(logits, [request], 4000, seed) for seed in range(2)]
    tokens = np.concatenate([g.tokens for g in got])
    assert fits(tokens, p) > 1e-3
    # top-p's border may fall one token apart between float32 and float64: a thousandth of the mass at most.
    np.testing.assert_allclose(np.concatenate([g.sampling_logps for g in got]), np.log(p[tokens]), atol=2e-3)


row_options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.4, 1.0, 3.0]),
        "top_k": st.sampled_from([0, 0, 1, 40, 600]),
        "top_p": st.sampled_from([1.0, 1.0, 0.5, 0.99]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
        "frequency_penalty": st.sampled_from([0.0, 1.0]),
        "logit_bias": st.sampled_from([{}, {2: 3.0}]),
        "banned_ids": st.sampled_from([(), (7, 8)]),
        "forced_ids": st.sampled_from([(), (), (4,)]),
    }
)


@settings(max_examples=30)
@given(st.lists(row_options, min_size=6, max_size=6), st.permutations(range(6)), st.integers(0, 2**31))
def test_a_row_gets_the_same_bits_anywhere_and_beside_anyone(options, places, seed):
    """Six rows in two orders, and the first three of them beside three greedy rows."""
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(6, WIDE)).astype(np.float32)
    requests = [asks(prompt=(1, 2, 3), **row) for row in options]
    held = settings_of(requests, WIDE, seed=seed)
    tokens, length = from_start(requests)
    args = (logits, held, tokens, length)
    first = jax.device_get(drawn(*args))
    moved = jax.device_get(drawn(*jax.tree.map(lambda x: x[list(places)], args)))
    for a, b in zip(first, moved, strict=True):
        np.testing.assert_array_equal(a[list(places)], b)
    others = settings_of([*requests[:3], *[asks(prompt=(1, 2, 3), **GREEDY)] * 3], WIDE, seed=seed)
    beside = jax.device_get(drawn(logits[[0, 1, 2, 5, 5, 5]], others, tokens, length))
    for a, b in zip(first, beside, strict=True):
        np.testing.assert_array_equal(a[:3], b[:3])


def test_no_setting_is_part_of_the_program():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS, WIDE)).astype(np.float32)
    draw_rows(logits, six([]))
    before = drawn._cache_size()
    for seed in range(40):
        requests = [
            asks(
                prompt=rng.integers(0, WIDE, rng.integers(1, 8)),
                temperature=float(rng.choice([0.0, 0.7, 1.0])),
                top_k=int(rng.choice([0, 5])),
                top_p=float(rng.choice([1.0, 0.9])),
                repetition_penalty=float(rng.choice([1.0, 1.1])),
                logit_bias=dict.fromkeys(rng.integers(0, WIDE, rng.integers(0, 8)).tolist(), 1.0),
                banned_ids=tuple(rng.integers(0, WIDE, rng.integers(0, 4))),
                forced_ids=tuple(rng.integers(0, WIDE, rng.integers(0, 3))),
            )
            for _ in range(ROWS)
        ]
        draw_rows(logits, requests, seed=seed)
    assert drawn._cache_size() == before


def test_greedy_takes_the_first_of_the_largest_after_the_penalties():
    logits = np.full((ROWS, WIDE), -1.0, np.float32)
    logits[0, [300, 500]] = 2.0
    logits[1, [200, 550]] = 2.0, 1.9
    logits[2, WIDE - 1] = 5.0
    rows = [asks(**GREEDY), asks(prompt=(200,), repetition_penalty=1.5, top_k=1, **GREEDY), asks(**GREEDY)]
    got = draw_rows(logits, six(rows))
    assert got.tokens.tolist() == [300, 550, WIDE - 1, 0, 0, 0]
    assert not got.sampling_logps.any()
    want = jax.nn.log_softmax(logits)[np.arange(ROWS), got.tokens]
    np.testing.assert_allclose(got.logps, want, rtol=1e-6)


def test_a_token_is_drawn_from_the_key_of_its_place_in_the_answer():
    """The key folded with t: the same row one token on draws with other bits, whatever the prompt's length."""
    logits = np.zeros((ROWS, WIDE), np.float32)
    tokens = np.zeros((ROWS, 8), np.int32)
    held = settings_of([asks(prompt=(1, 2))] * ROWS, WIDE)
    longer = held.replace(start=held.start + 1)

    def at(settings, n):
        return drawn(logits, settings, tokens, np.full(ROWS, n, np.int32)).tokens.tolist()

    assert [at(held, n) for n in (2, 3, 4)] == [at(longer, n + 1) for n in (2, 3, 4)]
    assert len({at(held, n)[0] for n in (2, 3, 4)}) > 1


def test_forced_tokens_are_taken_with_the_model_s_own_log_probs():
    logits = np.random.default_rng(1).normal(size=(ROWS, WIDE)).astype(np.float32)
    rows = six([asks(forced_ids=(4, 5), banned_ids=(4,)), asks(forced_ids=(9,), **GREEDY)])
    held = settings_of(rows, WIDE)
    tokens, length = from_start(rows)
    first = drawn(logits, held, tokens, length)
    assert first.tokens[:2].tolist() == [4, 9]
    assert not np.asarray(first.sampling_logps).any()
    np.testing.assert_allclose(first.logps, jax.nn.log_softmax(logits)[np.arange(ROWS), first.tokens], atol=2e-6)
    assert drawn(logits, held, tokens, length + 1).tokens.tolist() == [5, *logits[1:].argmax(axis=1)]


def test_ids_that_are_removed_are_never_drawn_and_count_in_the_model_s_log_probs():
    """Padded rows of the vocabulary and banned ids hold nearly all the probability here."""
    logits = np.asarray([0.0, 0.0, 9.0, 0.0, 9.0, 9.0], np.float32)
    rows = [asks(banned_ids=(2,)), asks(banned_ids=(2,), top_p=0.9), asks(allowed_ids=(0, 1), top_k=4), asks(min_p=1.0)]
    got = many(logits, rows, 4000, vocab_limit=4)
    assert set(got.tokens[0::4]) == set(got.tokens[1::4]) == {0, 1, 3}
    assert set(got.tokens[2::4]) == {0, 1}
    assert set(got.tokens[3::4]) == {2}
    np.testing.assert_allclose(got.logps, jax.nn.log_softmax(logits)[got.tokens], atol=1e-5)


@pytest.mark.parametrize("options", [GREEDY, {}, {"top_p": 0.9}, {"top_k": 3}], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_a_row_without_numbers_fails_and_the_others_are_what_they_were(options, bad):
    logits = np.random.default_rng(2).normal(size=(6, WIDE)).astype(np.float32)
    rows = [asks(prompt=(1, 2, 3), **options)] * 6
    before = draw_rows(logits, rows)
    logits[2, 500] = bad
    after = draw_rows(logits, rows)
    assert after.failed.tolist() == [False, False, True, False, False, False]
    assert not before.failed.any()
    assert after.tokens[2] == 0
    assert np.isnan([after.logps[2], after.sampling_logps[2]]).all()
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.delete(a, 2), np.delete(b, 2))


@pytest.mark.parametrize("options", [GREEDY, {}, {"top_p": 0.9}], ids=str)
def test_a_row_that_nothing_is_left_to_fails(options):
    held = settings_of([asks(**options)] * ROWS, WIDE)
    mask = held.mask.copy()
    mask[0] = 0
    logits = np.zeros((ROWS, WIDE), np.float32)
    got = drawn(logits, held.replace(mask=mask), *from_start([asks()] * ROWS))
    assert got.failed.tolist() == [True, *[False] * (ROWS - 1)]
    assert np.isnan(got.logps[0])
    forced = settings_of([asks(forced_ids=(3,))] * ROWS, WIDE).replace(mask=mask)
    got = drawn(logits, forced, *from_start([asks()] * ROWS))
    assert not np.asarray(got.failed).any()
    assert got.tokens.tolist() == [3] * ROWS


def test_rows_that_do_not_run_do_not_fail():
    logits = np.full((ROWS, WIDE), np.nan, np.float32)
    held = settings_of([asks(max_new_tokens=2)] * ROWS, WIDE)
    length = np.asarray([2, 3] * 3, np.int32)
    assert drawn(logits, held, np.zeros((ROWS, 8), np.int32), length).failed.tolist() == [True, False] * 3


def test_rows_that_keep_more_than_the_candidates_draw_from_the_same_distribution(monkeypatch):
    """Among 16 candidates of 60 ids most of these rows must look at all; with 60 candidates none."""
    monkeypatch.setattr(module, "CANDIDATES", 16)
    program = jax.jit(lambda *args: draw(*args))
    logits = np.round(2 * np.random.default_rng(3).normal(size=(60, 60)).astype(np.float32)) / 2
    grid = list(itertools.product((0, 3, 16, 17, 40), (1.0, 0.31, 0.9), (0.5, 3.0), (0.0, 0.1)))
    rows = [asks(top_k=k, top_p=p, temperature=t, min_p=m) for k, p, t, m in grid]
    want = np.stack([filtered(z, request.sampler) for z, request in zip(logits, rows, strict=True)])
    want -= np.log(np.exp(want).sum(axis=1, keepdims=True))
    seen = set()
    for seed in range(20):
        got = draw_rows(logits, rows, seed=seed, program=program)
        np.testing.assert_allclose(got.sampling_logps, want[np.arange(60), got.tokens], atol=1e-5)
        seen |= set(enumerate(got.tokens.tolist()))
    assert len(seen) > 300, "the draws are spread"


def test_rows_one_by_one_and_all_together_draw_the_same():
    """What an accelerator does for the rows that keep more than the candidates is what a processor does."""
    logits = np.random.default_rng(3).normal(size=(4, WIDE)).astype(np.float32)
    rows = [asks(), asks(top_p=0.9), asks(top_k=500, top_p=0.5, min_p=0.01), asks(top_k=400, temperature=2.0)]
    held = settings_of(rows, WIDE)
    drawn_before = np.arange(4, dtype=np.int32), np.zeros(4, np.float32)
    rest = logits, logits.max(axis=1), held, held.temperature, held.keys
    args = np.asarray([True, False, True, True]), drawn_before, rest
    one_by_one = jax.jit(lambda args: jax.lax.map(module._again, args))(args)
    together = jax.jit(module._all_again)(args)
    np.testing.assert_array_equal(one_by_one[0], together[0])
    np.testing.assert_allclose(one_by_one[1], together[1], atol=1e-6)
    assert (one_by_one[0][1], one_by_one[1][1]) == (1, 0.0)


@pytest.mark.parametrize(
    "spec", [("fsdp", "tensor"), pytest.param((("fsdp", "tensor"), None), marks=pytest.mark.slow)], ids=str
)
def test_rows_spread_over_devices_get_the_same_tokens(spec):
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    requests = [*MIXED[:7], asks(temperature=4.0, top_k=400, top_p=0.9)]
    logits = np.random.default_rng(9).normal(scale=2.0, size=(8, 1024)).astype(np.float32)
    args = logits, settings_of(requests, 1024), *from_start(requests)
    alone = jax.device_get(drawn(*args))
    rows = NamedSharding(mesh, PartitionSpec(spec[0]))
    spread = jax.device_put(args, (NamedSharding(mesh, PartitionSpec(*spec)), rows, rows, rows))
    for a, b in zip(alone, jax.device_get(drawn(*spread)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_more_than_all_candidates_tie():
    """400 equal logits: top-k of 5 keeps them all, top-p the smaller ids."""
    logits = np.full(WIDE, -4.0, np.float32)
    logits[100:500] = 1.0
    got = many(logits, [asks(top_k=5), asks(top_p=0.7)], 4000)
    by_k, by_p = got.tokens[0::2], got.tokens[1::2]
    assert by_k.min() >= 100
    assert 490 < by_k.max() < 500
    np.testing.assert_allclose(got.sampling_logps[0::2], -np.log(400), atol=1e-5)
    kept = np.ceil(0.7 * (400 + 200 * np.exp(-5)))
    assert by_p.min() >= 100
    assert kept + 90 < by_p.max() < kept + 100
    np.testing.assert_allclose(got.sampling_logps[1::2], -np.log(kept), atol=1e-5)


def test_top_logps_are_the_model_s_own():
    logits = np.random.default_rng(4).normal(size=(2, 50)).astype(np.float32)
    logits[0, [7, 30]] = 4.0
    ids, logps = jax.jit(top_logps)(logits)
    want = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_LOGPS]
    np.testing.assert_array_equal(ids, want)
    assert ids[0, :2].tolist() == [7, 30]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(logps, np.take_along_axis(log_p, want, axis=1), atol=1e-6)
    few = jax.jit(top_logps)(logits[:, :5], np.asarray([False, True]))
    assert few[0].shape == (2, TOP_LOGPS)
    assert (np.asarray(few[0])[0] == -1).all()
    assert np.isnan(np.asarray(few[1])[:, 5:]).all()
    assert sorted(few[0][1, :5].tolist()) == [0, 1, 2, 3, 4]


def test_logits_of_bfloat16_are_computed_in_float32():
    logits = jnp.asarray(np.random.default_rng(8).normal(size=(ROWS, WIDE)), jnp.bfloat16)
    rows = six([asks(), asks(top_p=0.9), asks(**FILTERED)])
    for a, b in zip(draw_rows(logits, rows), draw_rows(logits.astype(jnp.float32), rows), strict=True):
        np.testing.assert_array_equal(a, b)
