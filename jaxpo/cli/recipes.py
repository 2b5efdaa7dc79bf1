"""`jaxpo recipes`: what `jaxpo run NAME` can run; `jaxpo recipes copy NAME` takes one out to be changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxpo.cli.args import Parser
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.recipe.library import names, source, summary

USAGE = """\
usage: jaxpo recipes                       the recipes that come with jaxpo, for `jaxpo run NAME`
       jaxpo recipes copy NAME [DEST]      one of them as a file of your own (default NAME.py)

The file's docstring shows how it is run; `jaxpo run NAME --help` lists its options."""


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not argv:
        show()
        return 0
    if argv[0] != "copy":
        raise ConfigError(f"recipes: there is no task {argv[0]!r}.{did_you_mean(argv[0], ['copy'])}\n\n{USAGE}")
    return copy(argv[1:])


def show() -> None:
    """One line per recipe."""
    width = max(map(len, names()))
    print(*(f"{name:<{width}}  {summary(name)}" for name in names()), sep="\n")
    print("\n`jaxpo run NAME` runs one, `jaxpo recipes copy NAME` makes it a file of your own.")


def copy(argv: Sequence[str]) -> int:
    """The commands in the copy's docstring run the copy."""
    parser = Parser("recipes copy", "Write a recipe to a file of your own.")
    parser.add_argument("name", help="as `jaxpo recipes` lists it")
    parser.add_argument("dest", nargs="?", type=Path, help="file or folder (default NAME.py)")
    args = parser.parse(argv)
    recipe = source(args.name)
    dest: Path = args.dest or Path(recipe.name)
    if dest.is_dir():
        dest /= recipe.name
    text = recipe.read_text(encoding="utf-8").replace(f"jaxpo run {args.name}", f"jaxpo run {dest}")
    try:
        with open(dest, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{dest}: is there already; name another file, or remove this one.") from None
    except OSError as error:
        raise ConfigError(f"{dest}: cannot be written ({error.strerror}).") from error
    print(f"{dest}: run it with `jaxpo run {dest}`; its docstring shows how.")
    return 0
