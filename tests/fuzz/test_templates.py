"""Templates that are made to take time, memory or attributes are stopped within bounds."""

from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from fuzz.bounds import bounded, little_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.data.chat.sandbox import Compiled, TemplateFailure

GIVEN = {"messages": [{"role": "user", "content": "a b", "tags": ["x", 1, None]}], "x": "text", "n": 3}
DOUBLED = """\
{% set ns = namespace(a=[1], b=[1]) %}
{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"""


def render(source: str) -> str:
    with bounded(), little_memory():
        return Compiled(source, datetime(2026, 1, 2)).render(GIVEN)


@pytest.mark.parametrize(
    "source",
    [
        DOUBLED + "{{ ns.a == ns.b }}",
        "{% set x = 'a' * 999999 %}{% set l = [x] * 999 %}{% set m = [l] * 999 %}{{ m }}",
        "{% macro f() %}{{ varargs }}{% endmacro %}{% set x = 'a' * 999999 %}{{ f(x, x, x) }}",
        "{% for b in [1] | batch(99999, 'a' * 99999) %}{{ b == [b] }}{% endfor %}",
        "{{ dict(a=['a' * 999999] * 99) | tojson }}",
        "{{ ('{:{w}}' * 50000).format(1, w=999999) }}",
        "{{ ('{:99999}' * 10000).format(*range(10000)) }}",
        "{{ '%(a)99999d' * 10000 % {'a': 1} }}",
        "{{ 'a'.encode() * 10 ** 10 }}",
        "{{ ('é' * 99999).encode('punycode') }}",
        "{{ ('<!---->' * 99999) | striptags }}",
        "{{ ([[1]] * 40000) | sum(start=[]) }}",
        "{{ messages | pprint }}",
        "{{ messages[0].__class__ }}",
        "{{ (messages | first | attr('__init__')) }}",
        "{{ ''['__cl' ~ 'ass__'] }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ x.format.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ strftime_now.__self__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% from 'os' import x %}",
        "{% extends x %}",
    ],
)
def test_what_is_stopped(source):
    with pytest.raises(TemplateFailure):
        render(source)


def test_what_templates_do_with_lists():
    assert render("{% set l = [1, (2, {'a': x})] + [n] %}{{ l }}") == "[1, (2, {'a': 'text'}), 3]"
    assert render("{% for a, b in messages[0].items() %}{{ a }} {% endfor %}") == "role content tags "
    assert render("{{ '{}: {:>5}|%d%%'.format(x, 2) }}{{ '%5.1f|%-6s' % (1.5, x) }}") == "text:     2|%d%%  1.5|text  "
    assert render("{{ [1, 2] | sum }}{{ [messages[0].tags[1:2]] | map('first') | sum }}") == "31"


ATOMS = (
    "x",
    "n",
    "messages",
    "messages[0]",
    "'a'",
    "[]",
    "{}",
    "none",
    "999999",
    "range(9999)",
    "loop",
    "ns",
    "-1",
    "1e308",
)
FILTERS = (
    "length",
    "list",
    "join('-')",
    "tojson",
    "string",
    "sort",
    "unique",
    "batch(3)",
    "groupby('role')",
    "map('upper')",
)
WRAPS = (
    *(
        "({} ~ {})",
        "({} + {})",
        "({} * {})",
        "({} % {})",
        "({} ** {})",
        "[{}, {}]",
        "{{'k': {}, 'l': {}}}",
        "({} == {})",
    ),
    *("({}, {})", "({})[{}]", "({} if {} else 1)", "({} in {})", "dict(a={}, b={})", "({}).format({})"),
)


@st.composite
def expressions(draw, depth=3):
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(ATOMS))
    if draw(st.booleans()):
        return f"({draw(expressions(depth=depth - 1))}) | {draw(st.sampled_from(FILTERS))}"
    return draw(st.sampled_from(WRAPS)).format(draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1)))


@st.composite
def templates(draw):
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        one, other = draw(expressions()), draw(expressions())
        forms = (
            f"{{{{ {one} }}}}",
            f"{{% set x = {one} %}}{{{{ x }}}}",
            f"{{% for n in {one} %}}{{% set x = {other} %}}{{{{ x }}}}{{% endfor %}}",
            f"{{% for i in range(30) %}}{{% set ns.x = [ns.x, {one}] %}}{{% endfor %}}{{{{ ns.x == {other} }}}}",
        )
        parts.append(draw(st.sampled_from(forms)))
    return "{% set ns = namespace(x=1) %}" + "".join(parts)


def check(source: str) -> None:
    with contextlib.suppress(TemplateFailure):
        assert isinstance(render(source), str)


@settings(derandomize=True, max_examples=12, database=None, deadline=None)
@given(templates())
def test_any_template_ends(source):
    check(source)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(templates())
def test_any_template_ends_at_length(source):
    check(source)
