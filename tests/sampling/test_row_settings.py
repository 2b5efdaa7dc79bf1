"""Settings of rows: what a request becomes, what does not fit, keys, masks."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling.rows import WIDTHS, asks, settings_of

from jaxpo.errors import ConfigError
from jaxpo.sampling.row_settings import (
    Widths,
    allowed_words,
    empty,
    fill,
    problems,
    row_keys,
    row_values,
    to_words,
    with_masks,
)
from jaxpo.sampling.sampler import Sampler

V = 70
KEY = np.asarray([1, 2], np.uint32)


def bits(words, count=V):
    return [bool(words[i // 32] >> (i % 32) & 1) for i in range(count)]


def test_a_request_becomes_one_row_and_the_arrays_given_stay_as_they_are():
    before = empty(3, V, WIDTHS)
    request = asks(
        prompt=(5, 6, 7),
        max_new_tokens=10,
        min_new_tokens=2,
        top_k=4,
        top_p=0.5,
        temperature=0.25,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repetition_penalty=2.0,
        min_p=0.125,
        logit_bias={9: -1.5, 3: 2.0},
        forced_ids=(8,),
        top_logps=3,
    )
    values = row_values(request, WIDTHS, key=KEY, vocabulary=V, stop_ids=(2, 4), vocab_limit=60)
    after = fill(before, {1: values})
    row = {name: value[1].tolist() for name, value in vars(after).items() if name != "mask"}
    assert row == {
        "temperature": 0.25,
        "top_k": 4,
        "top_p": 0.5,
        "min_p": 0.125,
        "repetition_penalty": 2.0,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "keys": [1, 2],
        "stop_ids": [2, 4, -1, -1],
        "start": 3,
        "limit": 13,
        "min_length": 5,
        "bias_ids": [9, 3, *[-1] * 6],
        "bias_values": [-1.5, 2.0, *[0.0] * 6],
        "forced": [8, -1, -1, -1],
        "top_logps": 3,
    }
    assert bits(after.mask[1]) == [i < 60 for i in range(V)]
    nobody = empty(3, V, WIDTHS)
    for name, value in vars(after).items():
        np.testing.assert_array_equal(getattr(before, name), getattr(nobody, name))
        np.testing.assert_array_equal(value[[0, 2]], getattr(nobody, name)[[0, 2]])
        assert value.dtype == getattr(nobody, name).dtype


def test_a_row_filled_anew_keeps_nothing_of_the_one_before():
    full = settings_of([asks(logit_bias={1: 1.0}, forced_ids=(1, 2), banned_ids=(3,), top_k=5)], V, stop_ids=(1, 2, 3))
    values = {0: row_values(asks(), WIDTHS, key=KEY, vocabulary=V)}
    again, want = fill(full, values), fill(empty(1, V, WIDTHS), values)
    jax.tree.map(np.testing.assert_array_equal, again, want)


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_words_hold_one_bit_per_id(allowed):
    words = to_words(np.asarray(allowed))
    assert words.shape == (-(-len(allowed) // 32),)
    assert words.dtype == np.uint32
    assert bits(words, len(allowed)) == allowed
    assert bits(words, 32 * len(words))[len(allowed) :] == [False] * (-len(allowed) % 32)


def test_allowed_banned_and_missing_ids_share_one_mask():
    words = allowed_words(asks(allowed_ids=(1, 2, 40, 65), banned_ids=(2,)), V, 64)
    assert [i for i, bit in enumerate(bits(words)) if bit] == [1, 40]
    assert bits(allowed_words(asks(banned_ids=(69,)), V)) == [i != 69 for i in range(V)]


def test_other_masks_leave_the_settings_given_as_they_are():
    before = settings_of([asks()] * 3, V)
    after = with_masks(before, [2, 0], np.zeros((2, 3), np.uint32))
    assert after.mask.any(axis=1).tolist() == [False, True, False]
    assert before.mask.any(axis=1).all()


def test_everything_that_does_not_fit_is_named_with_its_bound():
    request = asks(
        logit_bias={**dict.fromkeys(range(9), 1.0), 70: float("nan")},
        forced_ids=(1, 2, 3, 4, -1),
        banned_ids=(99,),
        top_logps=21,
    )
    assert problems(request, WIDTHS, V, range(5)) == [
        "stop_ids holds 5 ids; there is room for 4",
        "logit_bias holds 10 ids; there is room for 8",
        "logit_bias holds the id 70; the model's vocabulary is 0..69",
        "forced_ids holds 5 ids; there is room for 4",
        "forced_ids holds the id -1; the model's vocabulary is 0..69",
        "banned_ids holds the id 99; the model's vocabulary is 0..69",
        "logit_bias[70] is nan; it must lie in [-1e+06, 1e+06]",
        "top_logps is 21; it must lie in 0..20",
    ]


@pytest.mark.parametrize(
    ("options", "limit"),
    [({"allowed_ids": ()}, None), ({"allowed_ids": (4,), "banned_ids": (4,)}, None), ({"allowed_ids": (66,)}, 60)],
)
def test_a_request_that_nothing_may_be_drawn_for_is_refused(options, limit):
    assert problems(asks(**options), WIDTHS, V, (), limit) == [
        "allowed_ids and banned_ids leave no id to draw; allow one more"
    ]
    assert problems(asks(), WIDTHS, V, (), limit) == []


def test_widths_are_powers_of_two():
    with pytest.raises(ConfigError, match=r"widths\.logit_bias is 300; it must be a power of two"):
        Widths(logit_bias=300)


def test_a_temperature_that_divides_as_nought_is_greedy_and_a_top_k_of_everything_is_off():
    held = settings_of([asks(temperature=1e-40, top_k=V), asks(temperature=1e-30, top_k=V - 1)], V)
    assert held.temperature.tolist() == [0.0, np.float32(1e-30)]
    assert held.top_k.tolist() == [0, V - 1]


def test_row_keys_are_folded_from_seed_number_and_sample():
    parts = [(0, 0, 0), (7, 123456, 3), (2**32 - 1, 2**31 + 5, 1)]
    for (seed, number, sample), found in zip(parts, row_keys(parts, 5), strict=True):
        want = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), np.uint32(number)), np.uint32(sample))
        np.testing.assert_array_equal(found, jax.random.key_data(want))


def test_row_keys_differ_in_every_part_and_beyond_32_bits_of_the_seed():
    parts = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0), (-1, 0, 0)]
    assert len({key.tobytes() for key in row_keys(parts, len(parts))}) == len(parts)


def test_settings_out_of_range_are_listed_together():
    with pytest.raises(ConfigError) as caught:
        Sampler(
            temperature=-1.0,
            top_k=-2,
            top_p=0.0,
            min_p=1.5,
            repetition_penalty=float("nan"),
            frequency_penalty=2.5,
            presence_penalty=float("-inf"),
        )
    assert len(caught.value.problems) == 7
    assert "sampler.top_p is 0.0; it must be in (0, 1] (1 = off)" in caught.value.problems
    assert "sampler.frequency_penalty is 2.5; it must be in [-2, 2] (0 = off)" in caught.value.problems


def test_settings_and_requests_import_no_jax():
    code = "import sys, jaxpo.sampling.sampler, jaxpo.sampling.request; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
