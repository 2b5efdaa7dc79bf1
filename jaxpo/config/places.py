"""Which fields of a configuration name files and folders: relative ones mean the directory that the run began in.

A field says so with its annotation: `train: tuple[DataFile, ...]`, `model_from: ModelFolder | None`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Place:
    """Marks a field whose texts are paths.

    Attributes:
      compared: what lies there is compared with what the run began with, so that the path alone means nothing.
    """

    compared: bool = False


DataFile = Annotated[str, Place(compared=True)]
"""A file or folder of rows, or a tokenizer: its content is part of the hash of the stage's data."""
OtherFile = Annotated[str, Place()]
"""A file or folder that is read once, when the run or one of its stages begins."""
ModelFolder = Annotated[str, Place()]
"""A folder with a model; or a word of the recipe, such as the name of an earlier stage."""
WORDS = ("previous", "random", "start")
OWN = ("corpus:", "stage:")


@lru_cache(maxsize=256)
def places(cls: Any) -> dict[str, Place]:
    """Field -> its mark, of the fields of a dataclass that name files or folders."""
    found = {name: next(_marks(hint), None) for name, hint in get_type_hints(cls, include_extras=True).items()}
    return {name: mark for name, mark in found.items() if mark is not None}


def _marks(hint: Any) -> Iterator[Place]:
    yield from (mark for mark in getattr(hint, "__metadata__", ()) if type(mark) is Place)
    for inner in get_args(hint):
        yield from _marks(inner)


def relocated(value: Any, change: Callable[[str], str], *, compared: bool = True, marked: bool = False) -> Any:
    """A copy of a configuration whose paths went through `change`; words of the recipe among them too.

    Args:
      compared: also those whose content is compared anyway.
      marked: whether the value stands in such a field.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {name for name, mark in places(type(value)).items() if compared or not mark.compared}
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        new = {name: relocated(x, change, compared=compared, marked=name in known) for name, x in own.items()}
        changed = {name: x for name, x in new.items() if x is not own[name]}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        parts = tuple(relocated(x, change, compared=compared, marked=marked) for x in value)
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    return change(value) if marked and isinstance(value, str) else value


def is_path(text: str, stages: Collection[str]) -> bool:
    """Whether the text of such a field is a path, no word of the recipe, no file of the run's own or elsewhere."""
    return text not in WORDS and text not in stages and not text.startswith(OWN) and "://" not in text


def is_name(text: str) -> bool:
    """Whether a text names something in a folder, and leads nowhere else."""
    return text not in ("", ".", "..") and Path(text).name == text
