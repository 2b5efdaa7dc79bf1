"""Processors against the definitions in float64, row by row under different settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling.rows import asks, filtered, processed, settings_of

from jaxpo.sampling.processors import keep_by_id, keep_in_order, process

V, T, ROWS = 41, 12, 4
STOPS = (3, 7)
run = jax.jit(process)
in_order = jax.jit(keep_in_order, static_argnums=4)

ids = st.integers(0, V - 1)
requests = st.builds(
    lambda **options: asks(**{name: value for name, value in options.items() if value is not None}),
    prompt=st.lists(ids, min_size=1, max_size=6),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    presence_penalty=st.sampled_from([0.0, 0.25, -2.0]),
    logit_bias=st.dictionaries(ids, st.sampled_from([-100.0, 1.5, 7.0]), max_size=8),
    banned_ids=st.lists(ids, max_size=5).map(tuple),
    allowed_ids=st.none() | st.sets(ids, min_size=10, max_size=20).map(tuple),
    min_new_tokens=st.sampled_from([0, 2, 6]),
)


def buffers(rows):
    """Token buffers `[B, T]` with rubbish behind the end, and the lengths."""
    tokens = np.full((len(rows), T), 5, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, np.asarray([len(row) for row in rows], np.int32)


@settings(max_examples=25)
@given(st.lists(st.tuples(requests, st.lists(ids, max_size=6)), min_size=ROWS, max_size=ROWS), st.integers(0, 2**31))
def test_processed_logits_equal_the_definitions(rows, seed):
    logits = np.random.default_rng(seed).normal(scale=3.0, size=(ROWS, V)).astype(np.float32)
    held = settings_of([request for request, _ in rows], V, stop_ids=STOPS, vocab_limit=V - 2)
    got = run(logits, held, *buffers([[*request.prompt, *answer] for request, answer in rows]))
    want = [processed(z, request, answer, STOPS, V - 2) for z, (request, answer) in zip(logits, rows, strict=True)]
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_settings_that_are_off_leave_every_bit_beside_rows_that_use_all():
    logits = np.random.default_rng(0).normal(size=(ROWS, V)).astype(np.float32)
    busy = asks(
        prompt=(1, 2),
        repetition_penalty=1.7,
        frequency_penalty=1.0,
        presence_penalty=1.0,
        logit_bias={4: 3.0},
        banned_ids=(9,),
        min_new_tokens=9,
    )
    held = settings_of([busy, asks(), busy, asks()], V, stop_ids=STOPS)
    got = np.asarray(run(logits, held, *buffers([[1, 2, 4, 4], [1, 2], [1, 2], [1]])))
    np.testing.assert_array_equal(got[[1, 3]], logits[[1, 3]])
    assert (got[0] != logits[0]).sum() == 6, "1, 2, 4, both stop ids and the banned id"


def test_repetition_penalty_lowers_both_signs_and_once_per_token():
    held = settings_of([asks(prompt=(0, 1, 1), repetition_penalty=2.0)], 3)
    z = process(jnp.asarray([[2.0, -2.0, 2.0]]), held, jnp.asarray([[0, 1, 1, 2]]), jnp.asarray([3]))
    np.testing.assert_array_equal(z, [[1.0, -4.0, 2.0]])


def test_frequency_and_presence_count_the_answer_and_not_the_prompt():
    held = settings_of([asks(prompt=(0, 0, 1), frequency_penalty=0.5, presence_penalty=1.0)], 3)
    z = process(jnp.zeros((1, 3)), held, jnp.asarray([[0, 0, 1, 1, 1, 2, 0]]), jnp.asarray([6]))
    np.testing.assert_array_equal(z, [[0.0, -2.0, -1.5]])


def test_stop_ids_come_back_with_the_token_that_makes_the_answer_long_enough():
    held = settings_of([asks(prompt=(0, 0), min_new_tokens=2)] * 3, 5, stop_ids=(4,))
    z = process(jnp.zeros((3, 5)), held, jnp.zeros((3, 8), jnp.int32), jnp.asarray([2, 3, 4]))
    np.testing.assert_array_equal(np.isfinite(z[:, 4]), [False, False, True])
    assert np.isfinite(z[:, :4]).all()


samplers = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 4, 30, 100]),
        "top_p": st.sampled_from([1.0, 0.9, 0.35, 1e-6]),
        "min_p": st.sampled_from([0.0, 0.05, 0.4]),
    }
)


def sorted_rows(logits, width):
    order = np.argsort(-logits, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(logits, order, axis=1), order


def mass_of(logits, temperature):
    return np.exp((logits - logits.max(1, keepdims=True)) / temperature[:, None]).sum(1).astype(np.float32)


@settings(max_examples=25)
@given(st.lists(samplers, min_size=ROWS, max_size=ROWS), st.integers(0, 2**31), st.booleans())
def test_filters_equal_the_definitions(given_, seed, ties):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(ROWS, V)).astype(np.float32)
    logits = np.round(logits) if ties else logits
    rows = [asks(**sampler) for sampler in given_]
    held = settings_of(rows, V)
    values, order = sorted_rows(logits, V)
    weights, complete = in_order(values, held, held.temperature, mass_of(logits, held.temperature), V)
    assert complete.all()
    for i, request in enumerate(rows):
        got = np.zeros(V)
        got[order[i]] = weights[i]
        want = filtered(logits[i], request.sampler)
        np.testing.assert_array_equal(got > 0, np.isfinite(want))
        np.testing.assert_allclose(got, np.exp(want - want.max()), rtol=1e-5)


@settings(max_examples=40)
@given(st.lists(samplers, min_size=ROWS, max_size=ROWS), st.integers(0, 2**31), st.booleans())
def test_a_row_is_complete_only_where_the_whole_vocabulary_gives_the_same(given_, seed, ties):
    logits = np.random.default_rng(seed).normal(scale=3.0, size=(ROWS, V)).astype(np.float32)
    logits = np.round(logits) if ties else logits
    held = settings_of([asks(**sampler) for sampler in given_], V)
    mass = mass_of(logits, held.temperature)
    whole, _ = in_order(sorted_rows(logits, V)[0], held, held.temperature, mass, V)
    part, complete = in_order(sorted_rows(logits, 8)[0], held, held.temperature, mass, V)
    for i in np.flatnonzero(complete):
        np.testing.assert_array_equal(np.asarray(whole)[i, :8] > 0, np.asarray(part)[i] > 0)
        assert not np.asarray(whole)[i, 8:].any()
    few = np.asarray([r["top_k"] in (1, 4) for r in given_]) & (not ties)
    assert complete[few].all(), "few candidates suffice for a small k"


def kept(logits, **options):
    z = np.full((1, 6), -np.inf, np.float32)
    z[0, : len(logits)] = logits
    held = settings_of([asks(**options)], 6)
    values, order = sorted_rows(z, 6)
    weights, _ = in_order(values, held, held.temperature, mass_of(z, held.temperature), 6)
    return sorted(order[0][np.asarray(weights)[0] > 0].tolist())


def test_top_k_keeps_all_that_tie_with_the_last():
    assert kept([1.0, 3.0, 2.0, 2.0, 0.0], top_k=2) == [1, 2, 3]
    assert kept([1.0, 3.0], top_k=5) == [0, 1]
    assert kept([10.0, 2e-8, 1e-8], top_k=2) == [0, 1], "what differs is no tie, however small beside the largest"


def test_top_p_tending_to_zero_keeps_one_even_among_equals():
    assert kept([0.0, 2.0, 1.0], top_p=1e-30) == [1]
    assert kept([1.0, 1.0, 1.0, 1.0], top_p=1e-30) == [0]
    assert kept([1.0, 1.0, 1.0, 1.0], top_p=1e-60) == [0], "below float32's range too"


def test_top_p_splits_a_tie_by_id_and_keeps_the_token_that_crosses():
    assert kept([0.0, 0.0, 0.0, 0.0], top_p=0.49) == [0, 1]
    assert kept(np.log([0.2, 0.5, 0.3]), top_p=0.6) == [1, 2]
    assert kept(np.log([0.2, 0.5, 0.3]), top_p=0.4) == [1]


def test_min_p_is_relative_to_the_most_probable_token():
    assert kept(np.log([0.5, 0.26, 0.24]), min_p=0.5) == [0, 1]
    assert kept([1.0, 2.0, 2.0], min_p=1.0) == [1, 2]


@pytest.mark.parametrize("temperature", [1e-30, 0.02, 1.0, 1e30])
def test_weights_are_finite_at_any_temperature(temperature):
    z = jnp.asarray([[3.0, 2.0, -jnp.inf, 3.0]])
    one = jnp.ones(1)
    weights = np.asarray(keep_by_id(z, jnp.max(z, axis=1), temperature * one, 0.0 * one))[0]
    np.testing.assert_allclose(weights, [1.0, np.exp(-1 / temperature), 0.0, 1.0], rtol=1e-6)
