"""Forms that an answer must have: JSON of a schema, any JSON object, a regular expression, one of several texts.

A form is compiled to a grammar over bytes; before every token the grammar says which ids may come next. What has the
form so far may only be followed by what can still become of the form, and the answer's end only by a complete form.

Reference: llguidance (https://github.com/guidance-ai/llguidance), which computes the masks.
"""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.sampling.json_schema import unread_keywords

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer

INSTALL = "answers of a given form need llguidance: pip install 'jaxpo[constrained]'"
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between the parts of a JSON text: room for a line's indentation, but no endless blank."""


class Form(ABC):
    """Something that compiles to a grammar; see `Constraint`."""

    WHAT: ClassVar[str]

    @abstractmethod
    def grammar(self) -> str:
        """llguidance's text of the grammar; ConfigError for a form that is none."""

    def begin(self, tokenizer: Tokenizer, vocabulary: int) -> TokenMatcher:
        """One answer's matcher.

        Args:
          tokenizer: whose tokens spell the answer; its turn end ends it.
          vocabulary: ids that the model has, at least the tokenizer's; those beyond are never allowed.

        Raises:
          ConfigError: a form that is none, with the reason; llguidance is absent.
        """
        from jaxpo.data.tokenizer.tokenizer import check_vocabulary

        check_vocabulary(tokenizer, vocabulary)
        beginning = _compiled(tokenizer, self.WHAT, self.grammar())
        return TokenMatcher(beginning.deep_copy(), tokenizer, vocabulary)


@dataclass(frozen=True)
class JsonSchema(Form):
    """JSON that is valid under a schema; the properties of an object come in the schema's order.

    Keywords that cannot be held to, and unknown ones, are errors.

    Attributes:
      schema: a JSON schema, as parsed.
    """

    schema: Mapping[str, Any]

    WHAT: ClassVar[str] = "the JSON schema"

    def grammar(self) -> str:
        if not isinstance(self.schema, Mapping):
            raise ConfigError(f"{self.WHAT} must be an object, not {type(self.schema).__name__}.")
        if unread := unread_keywords(self.schema):
            raise ConfigError([f"{self.WHAT}: {problem}" for problem in unread])
        try:
            text = json.dumps(dict(self.schema), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.WHAT} is no JSON: {error}.") from error
        return _json_grammar(text)


@dataclass(frozen=True)
class JsonObject(Form):
    """Any JSON object."""

    WHAT: ClassVar[str] = "the JSON object"

    def grammar(self) -> str:
        return _json_grammar('{"type": "object"}')


@dataclass(frozen=True)
class Regex(Form):
    """A text that a regular expression matches as a whole, in the syntax of Rust's `regex` without look-around.

    Attributes:
      pattern: the expression; it needs no `^` and `$`.
    """

    pattern: str

    WHAT: ClassVar[str] = "the regular expression"

    def grammar(self) -> str:
        return str(_library().LLMatcher.grammar_from_regex(self.pattern))


@dataclass(frozen=True)
class Choice(Form):
    """Exactly one of several texts.

    Attributes:
      options: the texts; none empty.
    """

    options: tuple[str, ...]

    WHAT: ClassVar[str] = "the choice"

    def grammar(self) -> str:
        if isinstance(self.options, str) or not self.options or not all(self.options):
            raise ConfigError(f"{self.WHAT} is {self.options!r}; give one or more texts that are not empty.")
        pattern = "|".join("".join(map(_escaped, option)) for option in self.options)
        return str(_library().LLMatcher.grammar_from_regex(f"(?:{pattern})"))


class TokenMatcher:
    """One answer on its way through a grammar; see `Matcher`."""

    def __init__(self, matcher: Any, tokenizer: Tokenizer, vocabulary: int):
        self._matcher, self._end = matcher, tokenizer.eos_id
        self._known, self._words = -(-tokenizer.vocab_size // 32), -(-vocabulary // 32)
        self._ended = False

    def allowed(self, out: np.ndarray) -> bool:
        """See `Matcher.allowed`: the turn end is among them exactly when the form is complete, and then may be all.

        Raises:
          ConfigError: the form turned out to be too complex on the way.
          ValueError: `out` is not uint32 `[ceil(V / 32)]`.
        """
        if out.dtype != np.uint32 or out.shape != (self._words,) or not out.flags.c_contiguous:
            raise ValueError(f"the mask must be uint32 [{self._words}], not {out.dtype} {list(out.shape)}")
        out[self._known :] = 0
        if self._ended:
            out[:] = 0
            return False
        self._matcher.unsafe_compute_mask_ptr(out.ctypes.data, 4 * self._known)
        self._check()
        return bool(out.any())

    def take(self, token: int) -> None:
        """See `Matcher.take`; ValueError for a token that was not allowed."""
        if token == self._end and self._matcher.is_accepting():
            self._ended = True
        elif self._ended or not self._matcher.consume_token(int(token)):
            raise ValueError(f"the token {token} was not allowed")

    @property
    def complete(self) -> bool:
        """Whether the answer so far has the form."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConfigError(f"the answer's form cannot be followed further: {_reason(self._matcher.get_error())}.")


def _json_grammar(schema: str) -> str:
    options = {"lenient": False, "coerce_one_of": False, "whitespace_pattern": WHITESPACE}
    try:
        return str(_library().LLMatcher.grammar_from_json_schema(schema, overrides=options))
    except ValueError as error:
        raise ConfigError(f"the JSON schema cannot be used: {_reason(str(error))}.") from error


def _escaped(character: str) -> str:
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


@functools.lru_cache(maxsize=64)
def _compiled(tokenizer: Tokenizer, what: str, grammar: str) -> Any:
    """A matcher at its beginning, which each answer begins with a copy of: compiling takes up to a second."""
    library = _library()
    failed, messages = library.LLMatcher.validate_grammar_with_warnings(grammar, _vocabulary(tokenizer))
    if failed or messages:
        raise ConfigError(f"{what} cannot be used: {_reason(messages[0])}.")
    return library.LLMatcher(_vocabulary(tokenizer), grammar, log_level=0)


@functools.lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer) -> Any:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Spelling(tokenizer)), eos_token=tokenizer.eos_id)


class _Spelling:
    """A tokenizer as llguidance asks for one. What adds nothing to a text is special: no grammar allows it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.tokens = tokenizer.spelling()
        self.special_token_ids = [i for i, token in enumerate(self.tokens) if not token]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _reason(message: str) -> str:
    """llguidance's message in one line."""
    return " ".join(message.split()).rstrip(".")


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(f"{INSTALL}.") from error
    return llguidance
