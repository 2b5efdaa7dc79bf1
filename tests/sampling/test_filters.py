"""Filters against float64 numpy references and transformers' own; draws against the distribution they claim."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxpo.errors import ConfigError
from jaxpo.sampling.filters import filter_logits, sample
from jaxpo.sampling.sampler import GREEDY, Sampler

V = 23
draw = jax.jit(sample, static_argnames=("sampler", "vocab_limit"))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def reference(logits, sampler, seen):
    """One row, float64, written token by token from the definitions."""
    z = np.asarray(logits, np.float64).copy()
    for i in np.flatnonzero(seen):
        z[i] = z[i] / sampler.repetition_penalty if z[i] > 0 else z[i] * sampler.repetition_penalty
    z /= sampler.temperature
    if sampler.top_k:
        kth = np.sort(z)[::-1][min(sampler.top_k, V) - 1]
        z[z < kth] = -np.inf
    if sampler.top_p < 1:
        p, collected, kept = softmax(z), 0.0, []
        for i in sorted(range(V), key=lambda i: (-z[i], i)):
            if kept and collected >= sampler.top_p:
                break
            kept.append(i)
            collected += p[i]
        z[[i for i in range(V) if i not in kept]] = -np.inf
    if sampler.min_p:
        p = softmax(z)
        z[p < sampler.min_p * p.max()] = -np.inf
    return z


samplers = st.builds(
    Sampler,
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 4, 100]),
    top_p=st.sampled_from([1.0, 0.9, 0.35, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 0.4]),
)


@settings(max_examples=15)
@given(samplers, st.integers(0, 2**31))
def test_filters_equal_the_definitions(sampler, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(3, V)).astype(np.float32)
    seen = rng.random((3, V)) < 0.3
    got = np.asarray(filter_logits(jnp.asarray(logits), sampler, seen=jnp.asarray(seen)))
    want = np.stack([reference(row, sampler, mask) for row, mask in zip(logits, seen, strict=True)])
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def kept(logits, **options):
    padded = np.pad(np.asarray([logits], np.float32), ((0, 0), (0, 6 - len(logits))), constant_values=-np.inf)
    return np.flatnonzero(np.isfinite(np.asarray(filter_logits(jnp.asarray(padded), Sampler(**options))[0]))).tolist()


def test_top_k_keeps_all_that_tie_with_the_last():
    assert kept([1.0, 3.0, 2.0, 2.0, 0.0], top_k=2) == [1, 2, 3]
    assert kept([1.0, 3.0], top_k=50) == [0, 1]


def test_top_p_tending_to_zero_keeps_one_even_among_equals():
    assert kept([0.0, 2.0, 1.0], top_p=1e-30) == [1]
    assert kept([1.0, 1.0, 1.0, 1.0], top_p=1e-30) == [0]


def test_top_p_splits_a_tie_by_id_and_keeps_the_token_that_crosses():
    assert kept([0.0, 0.0, 0.0, 0.0], top_p=0.49) == [0, 1]
    assert kept(np.log([0.2, 0.5, 0.3]), top_p=0.6) == [1, 2]
    assert kept(np.log([0.2, 0.5, 0.3]), top_p=0.4) == [1]


def test_min_p_is_relative_to_the_most_probable_token():
    assert kept(np.log([0.5, 0.26, 0.24]), min_p=0.5) == [0, 1]
    assert kept([1.0, 2.0, 2.0], min_p=1.0) == [1, 2]


def test_repetition_penalty_lowers_both_signs_and_once_per_token():
    z = filter_logits(
        jnp.asarray([[2.0, -2.0, 2.0]]),
        Sampler(repetition_penalty=2.0),
        seen=jnp.asarray([[True, True, False]]),
    )
    np.testing.assert_array_equal(z, [[1.0, -4.0, 2.0]])
    with pytest.raises(ValueError, match="needs `seen`"):
        filter_logits(jnp.zeros((1, 3)), Sampler(repetition_penalty=2.0))


def test_greedy_obeys_the_repetition_penalty_and_nothing_else():
    logits = jnp.asarray([[2.0, 1.9, -1.0]])
    sampler = Sampler(temperature=0.0, repetition_penalty=1.5, top_k=1)
    drawn = draw(logits, jax.random.split(jax.random.key(0), 1), sampler, seen=jnp.asarray([[True, False, False]]))
    assert drawn.tokens.tolist() == [1]
    assert drawn.sampling_logps.tolist() == [0.0]
    np.testing.assert_allclose(drawn.logps, jax.nn.log_softmax(logits)[:, 1], rtol=1e-6)


def test_rows_of_the_vocabulary_beyond_the_tokenizer_are_never_drawn():
    logits = jnp.tile(jnp.asarray([0.0, 0.0, 9.0, 9.0]), (500, 1))
    keys = jax.random.split(jax.random.key(0), 500)
    for sampler in (Sampler(), Sampler(top_p=0.9, min_p=0.1), GREEDY):
        assert int(draw(logits, keys, sampler, vocab_limit=2).tokens.max()) < 2


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(temperature=0.7, top_k=6, top_p=0.9, min_p=0.02)], ids=["plain", "filtered"]
)
def test_draws_follow_the_sampling_distribution(sampler):
    """Chi-square of 20,000 draws; both log-probs belong to the token drawn."""
    count = 20_000
    logits = np.random.default_rng(5).normal(size=8).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), count)
    drawn = draw(jnp.tile(logits, (count, 1)), keys, sampler)
    p = softmax(reference(np.pad(logits, (0, V - 8), constant_values=-np.inf), sampler, np.zeros(V, bool))[:8])
    seen = np.bincount(drawn.tokens, minlength=8)
    assert seen[p == 0].sum() == 0
    assert stats.chisquare(seen[p > 0], count * p[p > 0]).pvalue > 1e-3
    np.testing.assert_allclose(drawn.sampling_logps, np.log(p[drawn.tokens]), atol=1e-5)
    np.testing.assert_allclose(drawn.logps, np.log(softmax(logits.astype(np.float64)))[drawn.tokens], atol=1e-5)


def test_a_wrong_distribution_would_be_noticed():
    """The chi-square test above has power: draws at temperature 1.1 do not pass for temperature 1."""
    logits = np.random.default_rng(5).normal(size=8).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = draw(jnp.tile(logits, (20_000, 1)), keys, Sampler(temperature=1.1))
    expected = 20_000 * softmax(logits.astype(np.float64))
    assert stats.chisquare(np.bincount(drawn.tokens, minlength=8), expected * 20_000 / expected.sum()).pvalue < 1e-3


def test_a_row_is_drawn_as_if_alone():
    logits = jax.random.normal(jax.random.key(0), (6, V))
    keys = jax.random.split(jax.random.key(1), 6)
    sampler = Sampler(top_p=0.8)
    together = draw(logits, keys, sampler).tokens
    alone = jnp.concatenate([draw(logits[i : i + 1], keys[i : i + 1], sampler).tokens for i in range(6)])
    np.testing.assert_array_equal(together, alone)


def test_settings_out_of_range_are_listed_together():
    with pytest.raises(ConfigError) as caught:
        Sampler(temperature=-1.0, top_k=-2, top_p=0.0, min_p=1.5, repetition_penalty=float("nan"))
    assert len(caught.value.problems) == 5
    assert "sampler.top_p is 0.0; it must be in (0, 1] (1 = off)" in caught.value.problems


def test_settings_import_no_jax():
    code = "import sys, jaxpo.sampling.sampler; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parity
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(repetition_penalty=1.3),
        Sampler(temperature=0.6),
        Sampler(top_k=5),
        Sampler(top_p=0.7),
        Sampler(top_p=1e-9),
        Sampler(min_p=0.1),
        Sampler(1.1, 0.3, 0, 1.0, 0.15),
        Sampler(0.8, 1.7, 12, 0.85, 0.05),
    ],
    ids=str,
)
def test_filters_equal_transformers(sampler):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(16, 50)).astype(np.float32)
    ids = rng.integers(0, 50, (16, 9))
    steps = [process.RepetitionPenaltyLogitsProcessor(sampler.repetition_penalty)]
    steps += [process.TemperatureLogitsWarper(sampler.temperature)] if sampler.temperature != 1 else []
    steps += [process.TopKLogitsWarper(sampler.top_k)] if sampler.top_k else []
    steps += [process.TopPLogitsWarper(sampler.top_p)] if sampler.top_p < 1 else []
    steps += [process.MinPLogitsWarper(sampler.min_p)] if sampler.min_p else []
    want = process.LogitsProcessorList(steps)(torch.as_tensor(ids), torch.as_tensor(logits)).numpy()
    seen = np.zeros((16, 50), bool)
    seen[np.arange(16)[:, None], ids] = True
    got = np.asarray(filter_logits(jnp.asarray(logits), sampler, seen=jnp.asarray(seen)))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=1e-6)
