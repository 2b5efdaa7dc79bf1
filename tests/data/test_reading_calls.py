"""Calls as LFM2 writes them, read back; and what is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.chat.calls import call_list
from jaxpo.data.chat.reading_calls import Call, read_calls

NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
# Half of a character cannot be written as UTF-8, so no model writes it.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "arguments": st.dictionaries(NAMES, VALUES, max_size=3)}),
    min_size=1,
    max_size=3,
)


@given(CALLS)
def test_what_is_written_is_read_back(calls):
    found = read_calls(call_list(calls))
    assert [{"name": call.name, "arguments": json.loads(call.arguments)} for call in found] == calls


@pytest.mark.parametrize(("text", "name", "arguments"), [
    ("[f(x='it\\'s', n=-2,)]", "f", {"x": "it's", "n": -2}),
    ("f(x=True, y=null, z=[1, 2,])", "f", {"x": True, "y": None, "z": [1, 2]}),
    ("[get-weather(from='a\\tb', class={'in': 1.5e3})]", "get-weather", {"from": "a\tb", "class": {"in": 1500.0}}),
    ("[f(x='two\nlines')]", "f", {"x": "two\nlines"}),
    ('[a.b.c(x="\\ud83d\\ude00")]', "a.b.c", {"x": "😀"}),
    (' [ f ( ) ] ', "f", {}),
])  # fmt: skip
def test_other_spellings(text, name, arguments):
    (call,) = read_calls(text)
    assert (call.name, json.loads(call.arguments)) == (name, arguments)


@pytest.mark.parametrize("text", [
    "", "[]", "hello", "[f(1)]", "[f(**x)]", "[f(x=y)]", "[f(x=g())]", "[f(x=1]", "[f(x=1e999)]", "[f(x=b'a')]",
    '[f(x="\\ud800")]', "[f(x={1: 2})]", "[f(x={**y})]", "[f(x=~1)]", "[f(x=-True)]", "[f()()]", "[1 + 1]", "[f(x=1j)]",
    "[f(x=" + "[" * 5000 + "]" * 5000 + ")]", "[f(x=" + "-" * 50_000 + "1)]", "f(x='" + "a" * 200_000 + "')", "\0",
    "[f(x=lambda: 1)]", "[f(x=f'{1}')]", "[f(x=1, x=2)]", "[f(x='a\\qb')]",
    "[f(x={'a': 1, 'a': 2})]", "[f(x=1) g()]", "[f(,)]", "[,f()]", "[f(x=1)] and more", "[f(x=-)]", "[f(x='a)]",
])  # fmt: skip
def test_what_is_no_call_is_none(text):
    assert read_calls(text) is None


def test_a_call_that_is_one_beside_one_that_is_none():
    assert read_calls("[f(x=1), g(2)]") is None
    assert read_calls("[f(x=1), g(y=2)]") == (Call("f", '{"x": 1}'), Call("g", '{"y": 2}'))
