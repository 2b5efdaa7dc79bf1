"""Arguments of a command: argparse with `--a_b` spellings, suggestions for typos, and errors as ConfigError."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from jaxpo.errors import ConfigError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A command's parser. Unknown options and choices end in a ConfigError with a suggestion."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"jaxpo {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of argv.

        Raises:
          ConfigError: unknown option, missing or unreadable value.
        """
        space, extra = self.parse_known_args(list(map(dashed, argv)))
        unknown = [word for word in extra if word.startswith("--")]
        if unknown:
            known = [o for o in self._option_string_actions if o.startswith("--")]
            raise ConfigError(
                [f"{w.split('=')[0]}: there is no such option.{did_you_mean(w.split('=')[0], known)}" for w in unknown]
            )
        if extra:
            raise ConfigError(f"unexpected argument {extra[0]!r}; see `{self.prog} --help`.")
        return space

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        hint = did_you_mean(choice[2], re.findall(r"[\w-]+", choice[3])) if choice else ""
        raise ConfigError(f"{message}.{hint} See `{self.prog} --help`.")


def dashed(word: str) -> str:
    """`--max_new_tokens=3` -> `--max-new-tokens=3`; values are left alone."""
    if not re.match(r"--[A-Za-z]", word):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
