"""Foreign templates in their sandbox: what they may use, and that all of them end."""

from __future__ import annotations

import threading
from datetime import datetime

import pytest

from jaxpo.data.chat.sandbox import Compiled, TemplateFailure

GROWS = "{%% set ns = namespace(s='aaaaaaaaaa') %%}{%% for i in range(60) %%}%s{%% endfor %%}"


def render(source: str, **variables):
    return Compiled(source, datetime(2026, 1, 2)).render(variables)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ {'a': 'é<'} | tojson }}", '{"a": "é<"}'),
        ("{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=True, sort_keys=True) }}", '{"a": "\\u00e9", "b": 1}'),
        ("{{ strftime_now('%Y-%m-%d') }}", "2026-01-02"),
        ("{{ dict(a=1)['a'] }}", "1"),
        ("{{ [1] | tojson(indent=2) }}{{ 'a\\nb' | indent(2) }}", "[\n  1\n]a\n  b"),
        ("{{ ['b', 'a'] | map('upper') | join('-') }}{{ ' x ' | trim | length }}", "B-A1"),
        ("{{ 'a-b'.replace('-', '+') ~ '{}{}'.format(1, 'x') ~ '%d' % 2 ~ 3 * 'z' ~ 2 ** 3 ~ 7 % 4 }}", "a+b1x2zzz83"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a ~ 'x' }}", "2x"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ [1, 2] | join(', ') }}{{ 'a b'.split(' ')[-1] }}{{ '%s' | format(1) }}", "1, 2b1"),
        ("{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "321"),
    ],
)
def test_what_templates_use(source, text):
    assert render(source) == text


def test_generation_marks():
    template = Compiled("a{% generation %}{{ x }}{% endgeneration %}b{% generation %}{% endgeneration %}")
    assert (template.marks_generation, template.writes_date) == (True, False)
    assert template.render({"x": 1}, ("<", ">")) == "a<1>b<>"
    assert template.render({"x": 1}) == "a1b"
    assert not Compiled("{{ 'generation' }}").marks_generation
    assert Compiled("{{ strftime_now('%d') }}").writes_date


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "come to an end"),
        ("{% for i in range(10**9) %}{% endfor %}", "more than 1,000,000"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}", "come to an end"),
        (GROWS % "{% set ns.s = ns.s + ns.s %}", "text without end"),
        (GROWS % "{% set ns.s = ns.s ~ ns.s %}", "text without end"),
        (GROWS % "{% set ns.s = [ns.s, ns.s] | join %}", "text without end"),
        (GROWS % "{% set ns.s = ns.s.replace('a', 'aa') %}", "text without end"),
        (GROWS % "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}", "text without end"),
        ("{% for i in range(90000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}", "text without end"),
        ("{{ 'a' * 10**9 }}", "text without end"),
        ("{{ 7 ** (10**9) }}", "text without end"),
        ("{{ 'x' | center(10**10) }}", "'center' for more than"),
        ("{{ 'x'.ljust(10**10) }}", "'ljust' for more than"),
        ("{{ '%999999999d' % 1 }}", "huge width"),
        ("{{ '%999999999d' | format(1) }}", "huge width"),
        ("{{ '{:999999999d}'.format(1) }}", "huge width"),
        ("{{ ('a\\n' * 100000) | indent(1000000) }}", "indents by more than"),
        ("{{ x | tojson(indent=1000000) }}", "indents by more than"),
        ("{{ ('\\t' * 100000).expandtabs(100000) }}", "calls 'expandtabs'"),
        ("{{ 'a'.translate({97: 'b'}) }}", "calls 'translate'"),
        ("{{ ('{0}' * 10000).format('a' * 100000) }}", "text without end"),
        ("{{ ('%s' * 10000) % (('a' * 100000,) * 10000) }}", "text without end"),
        ("{{ range(99999) | map('replace', '', 'b' * 99999) | join }}", "text without end"),
        ("{{ ','.join(range(99999) | map('center', 99999)) }}", "text without end"),
        (GROWS % "{% set ns.l = (ns.l or []) + [('a' ~ i) * 100000] %}" * 20, "text without end"),
        ("{{ x | random }}", "No filter named 'random'"),
        ("{{ ''.__class__ }}", "attribute '__class__'"),
        ("{{ cycler.__init__.__globals__ }}", "attribute '__init__'"),
        ("{{ x['__class__'] }}", "attribute '__class__'"),
        ("{{ x | attr('__class__') }}", "attribute '__class__'"),
        ("{{ '{0.__class__}'.format(x) }}", "attribute '__class__'"),
        ("{{ x.append(1) }}", "attribute 'append'"),
        ("{{ dict.update({}, a=1) }}", "has no attribute 'update'"),
        ("{{ strftime_now('%999999999d') }}", "huge width"),
        ("{{ raise_exception('roles must alternate') }}", "^roles must alternate$"),
        ("{{ x.y.z }}", "has no attribute 'y'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% for %}", "not a Jinja template"),
        ("{% generation %}", "not a Jinja template"),
        ("(" * 400 + "{{ " + "(" * 4000 + ")" * 4000 + " }}", "not a Jinja template"),
        ("x" * 200_001, "200,001 characters"),
    ],
)
def test_what_is_stopped(source, why):
    with pytest.raises(TemplateFailure, match=why):
        render(source, x=[1])


def test_a_long_conversation_may_have_a_long_text():
    long = "word " * 1_000_000
    assert render("{{ 'a' ~ text + 'b' }}", text=long) == f"a{long}b"


def test_it_ends_in_a_thread_too():
    failed: list[Exception] = []

    def run() -> None:
        try:
            render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
        except TemplateFailure as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert len(failed) == 1
