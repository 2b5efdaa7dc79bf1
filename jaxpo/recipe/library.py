"""The recipes that come with jaxpo, by name; and what the name of a configuration means. Imports no jax."""

from __future__ import annotations

import ast
from pathlib import Path

import jaxpo
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.kinds import kinds_for

FOLDER = Path(jaxpo.__file__).parent / "recipes"
SAVED = "config.json"


def names() -> list[str]:
    """All recipes, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def source(name: str) -> Path:
    """The file of a recipe.

    Raises:
      ConfigError: there is none of that name; with a suggestion.
    """
    if name not in names():
        raise ConfigError(f"there is no recipe {name!r}.{did_you_mean(name, names())} `jaxpo recipes` lists them.")
    return FOLDER / f"{name}.py"


def summary(name: str) -> str:
    """What a recipe is for: the first sentence of its docstring."""
    document = ast.get_docstring(ast.parse(source(name).read_text(encoding="utf-8"))) or ""
    return " ".join(document.partition("\n\n")[0].split())


def locate(text: str) -> Path:
    """The file that is meant by the name of a configuration: of a file, a run directory, or a recipe.

    Raises:
      ConfigError: there is neither, or a run directory or file here has the name of a recipe.
    """
    path = Path(text)
    here = path / SAVED if (path / SAVED).is_file() else path
    if text in names():
        if here.is_file():
            raise ConfigError(
                f"{text}: is a recipe of jaxpo, and there is a {'run directory' if path.is_dir() else 'file'} of that "
                f"name here: say ./{text} for the one here; for the recipe, start from another folder."
            )
        return source(text)
    if not here.is_file():
        raise ConfigError(f"{text}: {missing(path)}")
    return here


def missing(path: Path) -> str:
    """Why there is no configuration of that name, and what may be meant."""
    if path.is_dir():
        return f"this folder has no {SAVED}: it is no run directory."
    if path.stem in names() and path.suffix in ("", ".py"):
        return f"there is no such file; the recipe of that name is inside the package: `jaxpo run {path.stem}`."
    if path.name in METHODS:
        recipe = kinds_for(METHODS[path.name].INFO.family).lower()
        return f"this is a method, not a recipe: `jaxpo run {recipe} --stage.loss {path.name}`."
    files = [str(file) for file in sorted(path.parent.glob("*.py"))]
    if path.suffix or len(path.parts) > 1:
        return f"there is no such configuration file.{did_you_mean(str(path), files)}"
    near = did_you_mean(str(path), [*files, *names()])
    return f"there is neither a configuration file nor a recipe of that name.{near} `jaxpo recipes` lists the recipes."
