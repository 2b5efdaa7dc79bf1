"""Which keywords of a JSON schema are held to: all others are named, for an ignored one would be a broken promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxpo.errors import ConfigError

DEEPEST = 40
"""llguidance reads no JSON of more than 128 levels, and a schema in a schema may take three."""
HELD = frozenset(
    (
        *("$ref", "type", "const", "enum", "anyOf", "oneOf", "allOf"),
        *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    )
)
"""What llguidance compiles, or refuses by itself where it cannot."""
SAID = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "title", "description"),
        *("default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"),
    )
)
"""What says something about values and forbids none."""
_REMEDIES = {"nullable": ' Write "type": ["...", "null"] instead.'}
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "additionalItems")


def unread_keywords(schema: Mapping[str, Any]) -> list[str]:
    """A sentence for every keyword, at any depth, that an answer could not be held to.

    Raises:
      ConfigError: schemas in schemas beyond `DEEPEST`.
    """
    found = []
    for path, part in _schemas(schema):
        found += [
            f"the keyword {name!r} at {path} is not supported.{_REMEDIES.get(name, '')}"
            for name in part
            if name not in HELD | SAID
        ]
    return found


def _schemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside one, with its path."""
    waiting: list[tuple[str, int, Any]] = [("#", 1, schema)]
    while waiting:
        path, depth, part = waiting.pop()
        if not isinstance(part, Mapping):
            continue  # true and false
        if depth > DEEPEST:
            raise ConfigError(f"the JSON schema is nested deeper than {DEEPEST} schemas; give inner ones as $defs.")
        yield path, part
        inside: list[tuple[str, Any]] = [(name, part.get(name)) for name in _SINGLE]
        for name in _NAMED:
            if isinstance(inner := part.get(name), Mapping):
                inside += [(f"{name}/{key}", value) for key, value in inner.items()]
        for name in _LISTED:
            if isinstance(inner := part.get(name), list | tuple):
                inside += [(f"{name}/{i}", value) for i, value in enumerate(inner)]
        waiting += [(f"{path}/{name}", depth + 1, value) for name, value in inside]
