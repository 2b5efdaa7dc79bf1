"""Compression and byte n-gram: against independent slow computations and laws that hold for any text."""

from __future__ import annotations

import lzma
import math
import random
from collections import defaultdict

import numpy as np
import pytest

from jaxpo.errors import DataError
from jaxpo.evaluate.byte_ngram import ByteNgram
from jaxpo.evaluate.compression import xz_bits_per_byte, xz_primed_bits_per_byte, xz_size

TEXTS = [b"the cat sat on the mat", b"the dog sat on the log; \x00\xff", b"a", b"", b"cats and dogs and the rest"]


def slow_witten_bell(documents: list[bytes], context: bytes, byte: int, order: int) -> float:
    """The recursion as the paper writes it, with dictionaries and one probability at a time."""
    counts: dict[bytes, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for d in documents:
        for i in range(len(d)):
            for n in range(min(order - 1, i) + 1):
                counts[d[i - n : i]][d[i]] += 1

    def p(h: bytes) -> float:
        lower = p(h[1:]) if h else 1 / 256
        if h not in counts:
            return lower
        seen = counts[h]
        return (seen.get(byte, 0) + len(seen) * lower) / (sum(seen.values()) + len(seen))

    return p(context[-(order - 1) :] if order > 1 else b"")


@pytest.mark.parametrize("order", [1, 2, 4])
def test_equals_the_slow_recursion(order):
    model = ByteNgram.fit(TEXTS, order)
    for text in (b"the cats sat", b"zebra \x00\xff\xfe", b"x", b"dogs and the log"):
        expected = [slow_witten_bell(TEXTS, text[:i], b, order) for i, b in enumerate(text)]
        np.testing.assert_allclose(model.probabilities(text), expected, rtol=1e-12)
        assert model.bits(text) == pytest.approx(-sum(math.log2(p) for p in expected), rel=1e-12)


def test_probabilities_sum_to_one_in_every_context():
    model = ByteNgram.fit(TEXTS)
    for context in (b"", b"t", b"th", b"the", b"e cat", b"\xfe\xfe\xfe", b"never seen"):
        assert model.distribution(context).sum() == pytest.approx(1.0, abs=1e-12)
        assert model.distribution(context).min() > 0


def test_the_distribution_is_what_documents_are_scored_with():
    model = ByteNgram.fit(TEXTS)
    text = b"the mat"
    expected = [model.distribution(text[:i])[b] for i, b in enumerate(text)]
    np.testing.assert_allclose(model.probabilities(text), expected, rtol=1e-12)


def test_no_gram_reaches_across_documents():
    apart, joined = ByteNgram.fit([b"ab", b"cd"]), ByteNgram.fit([b"abcd"])
    assert apart.distribution(b"b")[ord("c")] < joined.distribution(b"b")[ord("c")]


def test_an_unfitted_model_is_uniform():
    assert ByteNgram.fit([]).bits(b"abcd") == pytest.approx(32.0)


def test_xz_against_the_command_line_preset():
    text = "".join(random.Random(0).choice(["alpha ", "beta ", "gamma\n"]) for _ in range(5000)).encode()
    plain = len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert abs(xz_size(text) - plain) <= 0.01 * plain
    assert xz_bits_per_byte(text) == 8 * xz_size(text) / len(text)


def test_priming_makes_known_text_nearly_free_at_any_distance():
    chooser = random.Random(1)
    heldout = bytes(chooser.randrange(256) for _ in range(4000))
    filler = bytes(chooser.randrange(256) for _ in range(200_000))
    assert xz_bits_per_byte(heldout) > 7.9
    assert xz_primed_bits_per_byte(heldout, heldout + filler) < 1.0
    assert xz_primed_bits_per_byte(heldout, filler) > 7.9


def test_empty_held_out_text_is_refused():
    with pytest.raises(DataError, match="held-out text is empty"):
        xz_bits_per_byte(b"")
