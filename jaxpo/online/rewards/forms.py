"""Rewards for the form of an answer: a pattern, JSON of a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.config.json_text import parse
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class PatternReward(RewardFunction):
    """1 where a regular expression matches the whole answer, white space around it left out, else 0.

    Attributes:
      pattern: in Python's syntax; "." matches line breaks too.
    """

    pattern: str = ""

    NAME: ClassVar[str] = "pattern"

    def check(self, rows: Sequence[Row]) -> None:
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"the pattern {self.pattern!r} is no regular expression: {error}.") from error

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        pattern = re.compile(self.pattern, re.DOTALL)
        return [float(pattern.fullmatch(a.answer.strip()) is not None) for a in answers]


@dataclass(frozen=True)
class JSONReward(RewardFunction):
    """1 where the answer is JSON, and an object with these keys, or of this schema, else 0.

    Attributes:
      keys: of the object, each with the name of its JSON type, such as ("answer", "number"); () = any JSON.
      schema: a JSON schema (draft 2020-12) as JSON; "" = none. It needs the extra `schema`.
    """

    keys: tuple[tuple[str, str], ...] = ()
    schema: str = ""

    NAME: ClassVar[str] = "json"

    def check(self, rows: Sequence[Row]) -> None:
        wrong = [kind for _, kind in self.keys if kind not in TYPES]
        if wrong:
            raise ConfigError(f"{wrong[0]!r} is no type of JSON; there are {', '.join(TYPES)}.")
        if self.schema:
            validity(self.schema)

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        valid = validity(self.schema) if self.schema else None
        return [float(self._fits(a.answer, valid)) for a in answers]

    def _fits(self, text: str, valid: Callable[[Any], bool] | None) -> bool:
        try:
            found: Any = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if valid is not None and not valid(found):
            return False
        if not self.keys:
            return True
        whole = type(found) is dict and all(key in found for key, _ in self.keys)
        return whole and all(type(found[key]) in TYPES[kind] for key, kind in self.keys)


def validity(schema: str) -> Callable[[Any], bool]:
    """Whether values are of a JSON schema, by jsonschema.

    Raises:
      ConfigError: it is none, or jsonschema is not installed: no other validator takes its place.
    """
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ModuleNotFoundError as error:
        if error.name != "jsonschema":
            raise
        message = "schema: jsonschema, which checks it, is not installed: pip install 'jaxpo[schema]'."
        raise ConfigError(message) from error
    try:
        given = parse(schema)
        Draft202012Validator.check_schema(given)
    except (ValueError, SchemaError) as error:
        raise ConfigError(f"schema {schema!r:.60} is no JSON schema: {str(error).splitlines()[0]}.") from error
    valid: Callable[[Any], bool] = Draft202012Validator(given).is_valid
    return valid


TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
