"""What rows can be used for: the kinds of training that there are, and what a file lacks for the methods of each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.requirements import Purpose, absent_everywhere, check_needs
from jaxpo.data.rows.rows import detect
from jaxpo.errors import DataError

Names = Mapping[str, tuple[str, ...]]
"""Column -> the names of the numbers that it holds."""
NO_SETTINGS: Mapping[str, Sequence[str]] = {}
DATA = ".data.train"
"""How the flag ends that a command names its file with."""
OTHER_ROWS = "its stage reads no rows of type"
NO_COLUMN = "no column"
OWN_TOKENIZER, GIVEN_TOKENIZER = "--tokenizer.train-on FILE", "--tokenizer.path TOKENIZER"
"""Of a use that trains a tokenizer on the rows, and what takes its place where they have no text."""
CAPITALS = {
    "MODEL": "the folder of the checkpoint or export that training starts from",
    "TOKENIZER": "the folder of the tokenizer that the ids are of",
    "TEACHER": "the folder of the model to learn from, whose tokenizer the student takes",
}


@dataclass(frozen=True)
class Asked:
    """What a method asks of a file.

    Attributes:
      check: problems of the values of its columns and of their names, with the settings that the method has unless
        told otherwise; the fields of `named` are told.
      named: column -> the field that names what the column holds.
    """

    needs: Needs
    check: Callable[[Mapping[str, np.ndarray], Names], list[str]] = lambda columns, names: []
    named: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """A kind of training and the recipe for it.

    Attributes:
      name: what users call it, such as "fine-tuning".
      recipe: what `jaxpo run` is given.
      options: of the command, with FILE for the file and capitals for what else the user brings.
      purpose: what the recipe's stage prepares data for.
      methods: name -> what it asks. The recipe's own comes first, then those to suggest before others.
    """

    name: str
    recipe: str
    options: str
    purpose: Purpose
    methods: Mapping[str, Asked]


@dataclass(frozen=True)
class Seen:
    """What all rows of a file together show.

    Attributes:
      first: the first row, with the contract's column names.
      roles, labels: those that occur.
      rows: how many there are.
      columns: of numbers, over all rows.
      names: of those of them that are objects.
    """

    first: Row
    roles: frozenset[str]
    labels: frozenset[bool]
    rows: int
    columns: Mapping[str, np.ndarray]
    names: Names = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """How a file fits a use.

    Attributes:
      missing: method -> "" when the file can train it, else what is missing.
      names: of what the file's columns hold; the command tells them to a method that has to know them.
    """

    use: Use
    missing: Mapping[str, str]
    names: Names = field(default_factory=dict)

    @property
    def own(self) -> str:
        """The method of the recipe itself."""
        return next(iter(self.missing))

    @property
    def trained(self) -> list[str]:
        """The methods that the file can train."""
        return [name for name, why in self.missing.items() if not why]

    def table(self) -> list[tuple[str, str]]:
        """Method and what is missing, in the order to show: the recipe's own, then by name."""
        others = sorted((name, why) for name, why in self.missing.items() if name != self.own)
        return [(f"{self.own} (the recipe's own)", self.missing[self.own]), *others]

    def command(self, file: str, settings: Mapping[str, Sequence[str]] = NO_SETTINGS) -> str:
        """What trains the file: with the recipe's own method where the file has what that needs.

        Args:
          settings: of how the file was looked at, by field of `config.Data`; a stage reads it so too.
        """
        words = f"jaxpo run {self.use.recipe} {self.use.options}".replace("FILE", shlex.quote(file))
        flag = next((word for word in self.use.options.split() if word.endswith(DATA)), DATA).removesuffix("train")
        words += "".join(f" {flag}{name.replace('_', '-')} {shlex.join(value)}" for name, value in settings.items())
        return words if self.own in self.trained else f"{words} {self.choice(self.trained[0])}"

    def choice(self, method: str) -> str:
        """What the command says to train by another method than the recipe's own."""
        named = self.use.methods[method].named
        told = "".join(f" --stage.loss.{named[c]} {shlex.join(self.names[c])}" for c in named if c in self.names)
        return f"--stage.loss {method}{told}"


def fits(uses: Iterable[Use], seen: Seen) -> tuple[Fit, ...]:
    """How a file fits each use; of plain text pretraining comes first, of everything else last."""
    kind = detect(seen.first)
    ordered = sorted(uses, key=lambda use: (use.purpose == "language") != (kind == "text"))
    if kind == "tokens":
        ordered = [replace(use, options=use.options.replace(OWN_TOKENIZER, GIVEN_TOKENIZER)) for use in ordered]
    return tuple(
        Fit(use, {name: missing(seen, use.purpose, asked) for name, asked in use.methods.items()}, seen.names)
        for use in ordered
    )


def missing(seen: Seen, purpose: Purpose, asked: Asked) -> str:
    """Why a method cannot be trained on a file; "" when it can."""
    first, needs = seen.first, asked.needs
    try:
        check_needs(first, purpose, needs)
    except DataError as error:
        return f"{OTHER_ROWS} {detect(first)!r}" if error.field in first.data else f"{NO_COLUMN} {error.field!r}"
    tied = int(np.sum(seen.columns.get("tie", 0)))
    if tied and "tie" not in needs.columns:
        return f"{tied} pair(s) are tied"
    if column := absent_everywhere(needs, set(seen.roles)):
        return f"{NO_COLUMN} {column!r}"
    if "label" in needs.columns and len(seen.labels) == 1:
        return f"no row with label {str(True not in seen.labels).lower()}"
    if "kl" in needs.roles and seen.rows == 1 and seen.labels:
        return "a single row"
    return " ".join(
        asked.check({name: seen.columns[name] for name in needs.columns if name in seen.columns}, seen.names)
    )


def advice(found: Iterable[Fit], file: str, settings: Mapping[str, Sequence[str]] = NO_SETTINGS) -> list[str]:
    """First of all lines on a file: what it can train, and the command for each."""
    found = list(found)
    able = [fit for fit in found if fit.trained]
    if not able:
        return [f"cannot be trained as it is: {lacking(found)}"]
    lines = ["can be trained: " + ", ".join(f"{fit.use.name} (jaxpo run {fit.use.recipe})" for fit in able)]
    for fit in able:
        others = len(fit.trained) - 1
        more = f"  ({others} more with --stage.loss NAME)" if others else ""
        lines.append(f"  {fit.use.name}: {fit.command(file, settings)}{more}")
    lines += [f"  {name} is {what}" for name, what in CAPITALS.items() if any(name in fit.use.options for fit in able)]
    return lines


def lacking(found: Iterable[Fit]) -> str:
    """What stands in the way of the methods that come nearest."""
    reasons = dict.fromkeys(why for fit in found for why in fit.missing.values())
    near = [why for why in reasons if not why.startswith((OTHER_ROWS, NO_COLUMN))]
    return (
        " and ".join(near) or "there is nothing to learn beside a prompt; add `completion`, or `chosen` and `rejected`"
    )
