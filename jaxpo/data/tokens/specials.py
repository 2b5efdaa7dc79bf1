"""Tokens that the tokenizer marks special beside the template's: ids in answers where they are named, else counted."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence

from jaxpo.data.chat.chat import Span
from jaxpo.data.chat.guard import pattern_of
from jaxpo.data.tokenizer.tokenizer import BOS, IM_END, IM_START, PAD
from jaxpo.errors import ConfigError, did_you_mean

ALL = "all"
TURNS = (BOS, IM_START, IM_END)
"""Marks whose place the template gives; `data.rendered` is about them."""
TRUSTED = ("assistant", "text", "prefix", "middle", "suffix")
"""Roles of spans whose text is the row's own answer or document; what was given never yields a special id."""
NOTE = ("rows_with_", "_as_text")
"""Around a token's name: what is noted of a row that spells it."""


def allowed(names: Iterable[str], asked: Sequence[str]) -> tuple[str, ...]:
    """The tokens that answers may hold as ids.

    Args:
      names: the tokenizer's special tokens.

    Raises:
      ConfigError: a name that the tokenizer does not mark special, or that the template gives its place.
    """
    known = tuple(name for name in names if name not in (PAD, *TURNS))
    if ALL in asked:
        return known
    problems = []
    for name in asked:
        if name in (PAD, *TURNS):
            problems.append(f"data.special_tokens: the template places {name} (data.rendered is about given ones).")
        elif name not in known:
            hint = did_you_mean(name, known)
            problems.append(f"data.special_tokens: the tokenizer has no special token {name!r}.{hint}")
    if problems:
        raise ConfigError(problems)
    return tuple(asked)


def with_specials(spans: Sequence[Span], names: Sequence[str], as_ids: Sequence[str]) -> tuple[list[Span], set[str]]:
    """The spans with the tokens `as_ids` of trusted text as control spans, and notes of those that stay text.

    Args:
      names: the tokenizer's special tokens.
    """
    pattern, beginnings = _outside_turns(tuple(names))
    result: list[Span] = []
    noted: set[str] = set()
    for span in spans:
        if span.control or not any(map(span.text.__contains__, beginnings)) or not pattern.search(span.text):
            result.append(span)
            continue
        mine = as_ids if span.role in TRUSTED else ()
        for text, special in _pieces(pattern, span.text):
            control = special and text in mine
            noted |= {text.join(NOTE)} if special and not control else set()
            result.append(Span(text, span.supervised, span.role, control))
    return result, noted


@functools.lru_cache(maxsize=8)
def _outside_turns(names: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str]]:
    """Finds the names whose place the template does not give, and how they begin.

    There are hundreds, and this is asked of every text: most hold none of the few beginnings.
    """
    outside = tuple(name for name in names if name not in TURNS)
    return pattern_of(outside), frozenset(name[:2] for name in outside)


def _pieces(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, bool]]:
    done = 0
    for found in pattern.finditer(text):
        if done < found.start():
            yield text[done : found.start()], False
        yield found.group(), True
        done = found.end()
    if done < len(text):
        yield text[done:], False
