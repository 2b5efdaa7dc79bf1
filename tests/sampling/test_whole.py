"""Filters over the whole vocabulary by bisection, against the definitions in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling.rows import asks, filtered, settings_of

from jaxpo.sampling.pick import BLOCK
from jaxpo.sampling.whole import keep_whole

V, ROWS = BLOCK + 44, 4
run = jax.jit(keep_whole)
samplers = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 40, 257, 299]),
        "top_p": st.sampled_from([1.0, 0.97, 0.35, 1e-6, 1e-60]),
        "min_p": st.sampled_from([0.0, 0.05, 0.4]),
    }
)


@settings(max_examples=40)
@given(st.lists(samplers, min_size=ROWS, max_size=ROWS), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_filters_equal_the_definitions(given_, seed, ties, removed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(ROWS, V)).astype(np.float32)
    logits = np.round(2 * logits) / 2 if ties else logits
    logits[:, ::3] = -np.inf if removed else logits[:, ::3]
    rows = [asks(**sampler) for sampler in given_]
    held = settings_of(rows, V)
    got = np.asarray(run(logits, logits.max(axis=1), held, held.temperature))
    for weights, z, request in zip(got, logits, rows, strict=True):
        want = filtered(z, request.sampler)
        np.testing.assert_array_equal(weights > 0, np.isfinite(want))
        np.testing.assert_allclose(weights, np.exp(want - want.max()), rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_two_zeros_tie(sign):
    logits = np.full((1, V), -5.0, np.float32)
    logits[0, :4] = sign * np.asarray([0.0, -0.0, 0.0, -0.0])
    for options, kept in (({"top_k": 1}, 4), ({"top_p": 0.3}, 2)):
        held = settings_of([asks(temperature=0.1, **options)], V)
        weights = run(logits, logits.max(axis=1), held, held.temperature)
        assert np.flatnonzero(weights[0]).tolist() == list(range(kept))
