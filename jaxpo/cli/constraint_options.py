"""The form that answers must have, as options of a command."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError
from jaxpo.sampling.constraints import Choice, Form, JsonObject, JsonSchema, Regex


def add_constraint_options(parser: Parser) -> None:
    """At most one form."""
    parser.add_argument("--json-schema", type=Path, metavar="FILE", help="answers are JSON of the schema in this file")
    parser.add_argument("--json-object", action="store_true", help="answers are JSON objects")
    parser.add_argument("--regex", help="answers are matched by this regular expression as a whole")
    parser.add_argument("--choice", action="append", metavar="TEXT", help="answers are this text, or one of several")


def constraint_of(args: argparse.Namespace) -> Form | None:
    """The form that the options describe, or None.

    Raises:
      ConfigError: more than one, or a schema's file that cannot be read.
    """
    forms: dict[str, Form] = {}
    if args.json_schema is not None:
        forms["--json-schema"] = _schema(args.json_schema)
    if args.json_object:
        forms["--json-object"] = JsonObject()
    if args.regex is not None:
        forms["--regex"] = Regex(args.regex)
    if args.choice is not None:
        forms["--choice"] = Choice(tuple(args.choice))
    if len(forms) > 1:
        raise ConfigError(f"{' and '.join(forms)}: answers can have one form; give one of them.")
    return next(iter(forms.values()), None)


def _schema(file: Path) -> JsonSchema:
    from jaxpo.config.json_text import parse

    try:
        return JsonSchema(parse(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"--json-schema {file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"--json-schema {file}: not JSON: {error}.") from error
