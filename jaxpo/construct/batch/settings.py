"""What answers depend on. A file of answers is made under one set of settings: others are refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.data.durable import intact, seal
from jaxpo.errors import RunError
from jaxpo.sampling.request import Request
from jaxpo.train.files import read_json, write_json

SETTINGS = "settings.json"
_OF_A_ROW = ("prompt", "number", "shown")


def settings_of_request(template: Request) -> dict[str, Any]:
    """Everything of a request but the prompt and its number."""
    found = {f.name: getattr(template, f.name) for f in dataclasses.fields(template) if f.name not in _OF_A_ROW}
    form = template.constraint
    found["sampler"] = dataclasses.asdict(template.sampler)
    found["constraint"] = None if form is None else {"form": type(form).__name__, **vars(form)}
    return found


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings where there are none yet.

    Raises:
      RunError: the folder holds answers of other settings; names what differs.
    """
    file = folder / SETTINGS
    document = read_json(file)
    if document is None:
        write_json(file, seal({"settings": dict(settings)}))
        return
    if not intact(document):
        raise RunError(f"{file} is not as it was written. Begin again with --restart, or name another output.")
    if differing := differences(document["settings"], _plain(settings)):
        lines = "\n".join(f"  - {line}" for line in differing)
        raise RunError(
            f"{folder} holds answers that were made otherwise:\n{lines}\nGo on with the old settings, name another "
            "output, or begin again with --restart, which removes them."
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """`name: was OLD, is NEW` for every value in which two nests of mappings differ."""
    found = []
    for name in dict.fromkeys((*old, *new)):
        before, now = old.get(name), new.get(name)
        here = f"{path}{name}"
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{here}.")
        elif before != now:
            found.append(f"{here}: was {_short(before)}, is {_short(now)}")
    return found


def _plain(settings: Mapping[str, Any]) -> Any:
    import json

    return json.loads(json.dumps(settings))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
