"""A Python function as a judge, and how such functions are named."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply


@dataclass(frozen=True)
class FunctionJudge(Judge):
    """`f(prompt, answer, row) -> number`; an exception that it raises is a failure of that answer.

    Attributes:
      function: "module:function", or "file.py:function". prompt is a string or a list of messages, answer a string,
        row a dictionary of all columns.
    """

    function: str = ""

    NAME: ClassVar[str] = "function"
    BATCH: ClassVar[int] = 8

    def check(self, rows: Sequence[Row]) -> None:
        load_function(self.function)

    def columns(self) -> None:
        return None

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"judge": self.NAME, "function": self.function, "source": source_hash(self.function)}

    def open(self, networks: Networks) -> Ask:
        function = load_function(self.function)
        return lambda items: [call(function, item, score_reply) for item in items]


def call(function: Callable[..., Any], item: Item, reply: Callable[[Any], Reply]) -> Reply:
    """The function's reply about one item; whatever the user's code raises is kept as its failure."""
    try:
        value = function(item.prompt, item.answer, dict(item.row.data))
    except Exception as error:
        return Reply(failed=f"{type(error).__name__}: {error}"[:300])
    return reply(value)


def load_function(name: str) -> Callable[..., Any]:
    """The function of "module:function" or "file.py:function"; runs that module.

    Raises:
      ConfigError: no such module, file or function, or one that cannot be loaded.
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"the function {name!r} must be module:function or file.py:function.")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(f"{module_name} has no function {attribute!r}.")
    return function


def source_hash(name: str) -> str:
    """Hash of the file that a function comes from: a changed function is another one."""
    module_name = name.rpartition(":")[0]
    path = Path(module_name)
    if not module_name.endswith(".py"):
        origin = getattr(importlib.util.find_spec(module_name), "origin", None)
        if origin is None or not Path(origin).is_file():
            return ""
        path = Path(origin)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"jaxpo_function_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"{path}: there is no such Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"the module {name!r} cannot be imported: {error}.") from error
