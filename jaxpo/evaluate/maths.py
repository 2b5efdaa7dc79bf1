"""Are two answers of mathematics the same: by math-verify, which parses both. Imports no jax.

Source: https://github.com/huggingface/Math-Verify. Numbers, fractions, LaTeX, sets and intervals are compared by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxpo.errors import ConfigError
from jaxpo.evaluate.final_answer import MARK

# What says "this is the answer": GSM8K's mark, the sentence of chain-of-thought prompts.
_MARKED = re.compile(
    rf"{MARK}\s*(?P<mark>[^\n]+)|the (?:final )?answer is:?\s*(?P<said>[^\n]+?)(?:\.?\s*$|\.\s)", re.I | re.M
)


@dataclass(frozen=True)
class Verifier:
    """math-verify's two functions; `strict` and `flexible` grade an answer by them.

    Attributes:
      parse: text -> what was found in it, [] for nothing.
      verify: `(right, said)`, as parsed -> whether they are the same.
    """

    parse: Callable[[str], list[Any]]
    verify: Callable[[list[Any], list[Any]], bool]

    def strict(self, right: str, text: str) -> bool:
        """Whether the text marks an answer as its last, after `####` or `the answer is`, and that is right."""
        said = marked(text)
        return said is not None and self.same(right, said)

    def flexible(self, right: str, text: str) -> bool:
        """As `strict` where the text marks an answer; else whether what math-verify finds in all of it is right."""
        said = marked(text)
        return self.same(right, text if said is None else said)

    def same(self, right: str, said: str) -> bool:
        """Whether a text holds the right answer, as math-verify finds and compares them."""
        return bool(self.verify(self.parse(right), self.parse(said)))


def marked(text: str) -> str | None:
    """What follows the last mark of an answer on its line; None without one."""
    found = list(_MARKED.finditer(text))
    return (found[-1]["mark"] or found[-1]["said"]).strip() if found else None


def verifier(who: str) -> Verifier:
    """math-verify; ConfigError where it is not installed, naming the extra: no other grader takes its place.

    Args:
      who: grades with it.
    """
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError as error:
        if error.name != "math_verify":
            raise
        message = f"{who}: grades with math-verify, which is not installed: pip install 'jaxpo[eval]'."
        raise ConfigError(message) from error
    return Verifier(parse, verify)
