"""Sources whose shares change: pure functions of a position, by the integral of the shares."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.config import Data, Mixed
from jaxpo.data.packing.annealed import Annealed, mixture_of
from jaxpo.data.packing.mixture import SCALE, Mixture
from jaxpo.data.tokens.shares import Share
from jaxpo.recipe.checks.stage import mix_problems

SOURCE = st.tuples(st.integers(1, 30), st.integers(2, 20), st.floats(0.05, 10), st.floats(0.05, 10) | st.none())


def shares_of(sources):
    firsts = itertools.accumulate((n for n, *_ in sources), initial=0)
    return tuple(
        Share(f"s{i}", a, n, n * t, w, end_weight=e)
        for i, (a, (n, t, w, e)) in enumerate(zip(firsts, sources, strict=False))
    )


def given_by(mixed, u):
    """Examples that each source has given at token u, exactly: the integral of its rate, and whole ones of it."""
    found = []
    for a, b in mixed._between:
        period = mixed.period
        ramp = min(u, period)
        area = Fraction(a) * ramp + Fraction(b - a, 2 * period) * ramp**2 + b * (u - ramp)
        found.append(int(area / SCALE + Fraction(1, 2)))
    return found


@settings(max_examples=40, deadline=None)
@given(sources=st.lists(SOURCE, min_size=1, max_size=4), until=st.floats(0.2, 2.5), data=st.data())
def test_examples_are_due_where_the_integral_of_the_shares_says(sources, until, data):
    mixed = Annealed(shares_of(sources), 0, True, until)
    n = mixed.examples
    for u in data.draw(st.lists(st.integers(0, 3 * mixed.period), min_size=3, max_size=3)):
        assert mixed.due(u) == given_by(mixed, u)
        whole = sum(mixed.due(u))
        assert sum(mixed.counts(whole)) == whole
    for position in data.draw(st.lists(st.integers(0, 3 * n), min_size=3, max_size=3)):
        assert sum(mixed.counts(position)) == position
    # Whatever stretches it is asked for, and each source one whole epoch after another.
    order = np.concatenate([mixed.take(e, 0, n) for e in range(3)])
    cut = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    pieces = [mixed.take(1, a, b) for a, b in itertools.pairwise([0, *cut, n])]
    assert sorted(np.concatenate(pieces).tolist()) == sorted(order[n : 2 * n].tolist())
    assert np.bincount(mixed.source_of(order), minlength=len(sources)).tolist() == mixed.counts(3 * n)
    for s, share in enumerate(mixed.shares):
        own = np.sort(order[mixed.source_of(order) == s][: share.examples])
        if len(own) == share.examples:
            assert own.tolist() == list(range(share.first, share.first + share.examples))


def test_shares_go_from_the_first_to_the_last_linearly_in_tokens():
    # As the report's mixture of text and images, 95% to 30%.
    mixed = Annealed(shares_of([(4000, 50, 95.0, 30.0), (4000, 25, 5.0, 70.0)]), 0, True, 1.0)
    total = mixed.period
    order = mixed.take(0, 0, mixed.examples)
    tokens = np.where(mixed.source_of(order) == 0, 50, 25)
    text = np.cumsum(np.where(mixed.source_of(order) == 0, 50, 0)) / np.cumsum(tokens)
    at = np.cumsum(tokens) / total
    for u in (0.1, 0.5, 0.999):
        k = np.searchsorted(at, u)
        assert text[k] == pytest.approx(0.95 - 0.65 * u / 2, abs=0.005)
    last = slice(len(order) - 200, len(order))
    assert tokens[last][tokens[last] == 50].sum() / tokens[last].sum() == pytest.approx(0.3, abs=0.03)
    later = mixed.take(1, 0, mixed.examples)
    tokens = np.where(mixed.source_of(later) == 0, 50, 25)
    assert tokens[tokens == 50].sum() / tokens.sum() == pytest.approx(0.3, abs=0.005)
    assert sum(mixed.tokens(3 * total)) == pytest.approx(3 * total)
    assert mixed.tokens(total)[0] == pytest.approx(total * 0.625)


def test_a_source_may_end_and_another_begin():
    mixed = Annealed(shares_of([(50, 10, 1.0, 0.0), (50, 10, 0.001, 1.0)]), 0, False, 1.0)
    later = mixed.source_of(mixed.take(2, 0, mixed.examples))
    assert set(later.tolist()) == {1}


def test_without_an_end_it_is_the_mixture_that_it_was():
    plain = shares_of([(10, 4, 1.0, None), (20, 5, 2.0, None)])
    assert type(mixture_of(plain, 0, True, 1.0)) is Mixture
    ended = shares_of([(10, 4, 1.0, None), (20, 5, 2.0, 1.0)])
    names = {b"".join(mixture_of(ended, 0, True, until).pieces()) for until in (1.0, 2.0)}
    assert len(names | {b"".join(mixture_of(plain, 0, True, 1.0).pieces())}) == 3


def test_ends_that_cannot_be_are_told():
    def told(until=1.0, **more):
        data = Data(mix=(("a", Mixed(("x",), **more)),), mix_until=until)
        return " ".join(mix_problems(data, "pretrain"))

    assert "pretrain.data.mix.a.end_weight: -1 must be at least 0" in told(end_weight=-1.0)
    assert "every source's end_weight is 0" in told(end_weight=0.0)
    assert "pretrain.data.mix_until: 0 must be above 0" in told(0.0)
    assert not told(end_weight=2.0)
