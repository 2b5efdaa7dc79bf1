"""A configuration as JSON and back, exactly: the saved `config.json` of a run can be run again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

from jaxpo.config.fields import default_of
from jaxpo.config.file import FILE_MODULE, load_module
from jaxpo.config.json_text import parse
from jaxpo.config.moved import present_name
from jaxpo.errors import ConfigError, did_you_mean

TYPE = "__type__"
LIST = "__list__"


def to_jsonable(value: Any) -> Any:
    """Dataclasses become objects that carry their type's name; tuples become arrays; lists are tagged.

    Raises:
      ConfigError: a value that JSON cannot hold, with its type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {TYPE: type_name(type(value)), **fields}
    if isinstance(value, tuple):
        return [to_jsonable(v) for v in value]
    if isinstance(value, list):
        return {LIST: [to_jsonable(v) for v in value]}
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise ConfigError(f"a configuration's dictionary must have string keys, got {sorted(map(repr, value))}.")
        return {k: to_jsonable(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"a configuration holds numbers, strings, tuples and frozen dataclasses; "
        f"got {type(value).__name__} ({value!r})."
    )


def from_jsonable(
    value: Any, *, trust_files: bool = False, where: str = "config", known_types: Container[str] = ()
) -> Any:
    """Inverse of `to_jsonable`.

    Args:
      trust_files: also load dataclasses that were defined in a configuration file itself, which executes that file.
      known_types: names of types beyond jaxpo's own whose modules may be imported.

    Raises:
      ConfigError: unknown types or fields, named with a suggestion.
    """
    again: dict[str, Any] = {"trust_files": trust_files, "known_types": known_types}
    if isinstance(value, list):
        return tuple(from_jsonable(v, where=f"{where}.{i}", **again) for i, v in enumerate(value))
    if not isinstance(value, dict):
        return value
    if LIST in value:
        if not isinstance(value[LIST], list):
            raise ConfigError(f"{where}.{LIST}: must hold a list, not {type(value[LIST]).__name__}.")
        return [from_jsonable(v, where=f"{where}.{i}", **again) for i, v in enumerate(value[LIST])]
    items = {k: from_jsonable(v, where=f"{where}.{k}", **again) for k, v in value.items() if k != TYPE}
    if TYPE not in value:
        return items
    cls = find_type(value[TYPE], where=where, **again)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    unknown = [k for k in items if k not in known]
    if unknown:
        raise ConfigError([f"{where}.{k}: {cls.__name__} has no such field.{did_you_mean(k, known)}" for k in unknown])
    try:
        return cls(**items)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {cls.__name__} refused its fields: {error}.") from error


def read_again(stored: Any) -> Any:
    """A stored configuration as this version writes it: present names of types, newer fields at their defaults.

    Types and fields that this version does not know stay as they are, and are then found to be others.
    """
    if isinstance(stored, list):
        return [read_again(value) for value in stored]
    if not isinstance(stored, dict):
        return stored
    items = {name: read_again(value) for name, value in stored.items()}
    if TYPE not in items:
        return items
    try:
        cls = find_type(items[TYPE], where="config", trust_files=True)
    except ConfigError:
        return items
    known = {f.name: default_of(f) for f in dataclasses.fields(cls) if f.init}
    defaults = {name: to_jsonable(value) for name, value in known.items() if value is not dataclasses.MISSING}
    return {TYPE: type_name(cls)} | defaults | {name: value for name, value in items.items() if name != TYPE}


def type_name(cls: type) -> str:
    """`module:QualName`; a class of a configuration file is named by the file's path.

    All of `jaxpo.config` goes by that name: a saved configuration does not care which of its files a class stands in.
    """
    module = cls.__module__
    if module.startswith("jaxpo.config."):
        module = "jaxpo.config"
    if module.startswith(FILE_MODULE):
        module = str(getattr(sys.modules[module], "__file__", module))
    return f"{module}:{cls.__qualname__}"


def find_type(name: str, *, where: str, trust_files: bool, known_types: Container[str] = ()) -> Any:
    """The dataclass of a stored type name; only jaxpo's own modules are imported unless files are trusted."""
    present = present_name(str(name))
    module_name, _, attribute = present.rpartition(":")
    # The name of a file may begin like that of our modules.
    own = module_name.split(".")[0] == "jaxpo" and not module_name.endswith(".py")
    if not (own or present in known_types or trust_files):
        raise ConfigError(
            f"{where}: the type {name!r} is not jaxpo's own, and loading it would execute foreign code. "
            "If you trust it, run it with `jaxpo run`."
        )
    if module_name.endswith(".py"):
        module = load_module(Path(module_name))
    else:
        try:
            module = importlib.import_module(module_name)
        except (ImportError, ValueError, TypeError) as error:  # "" and ".x" are no names of modules
            raise ConfigError(f"{where}: the module of the type {name!r} cannot be imported: {error}.") from error
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    # Through what a module of ours imports, a name could lead to anybody's class.
    foreign = own and not str(getattr(found, "__module__", "")).startswith("jaxpo.")
    if foreign or not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{where}: {name!r} is not a dataclass of this version of jaxpo.")
    return found


def dump(run: Any) -> str:
    """The text of a run's `config.json`."""
    return json.dumps(to_jsonable(run), indent=2, ensure_ascii=False) + "\n"


def load(path: Path, *, trust_files: bool = False) -> Any:
    """Read a `config.json`.

    Raises:
      ConfigError: not readable, not JSON (with the line), or not a jaxpo configuration.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(f"{path}{line}: is not valid JSON ({error}).") from error
    if not isinstance(value, dict) or TYPE not in value:
        raise ConfigError(f"{path}: is not a saved jaxpo configuration (it has no {TYPE!r}).")
    try:
        return from_jsonable(value, trust_files=trust_files)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error
