"""The files beside a checkpoint's tokenizer.json: its own, kept as they are; and those that our own tokenizers get.

Those of an image processor go with them: where a tokenizer has marks for images, they say what becomes of an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.media.settings import PREPROCESSOR, PROCESSOR
from jaxpo.data.tokenizer.lfm2_template import CHAT_TEMPLATE, EARLIER
from jaxpo.errors import DataError

CONFIG, TOKENS, JINJA = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
_PLAIN = (CONFIG, TOKENS, JINJA, "chat_template.json", "added_tokens.json", PREPROCESSOR, PROCESSOR)
_FURTHER = "additional_chat_templates"
DEFAULT, WITH_TOOLS = "default", "tool_use"
"""Names of templates: the one that is meant, and the one for rows with tools where there is one."""


@dataclass(frozen=True)
class CheckpointFiles:
    """What lies beside a tokenizer.json.

    Attributes:
      texts: name -> text, as it was read.
      templates: name -> Jinja text; empty when it is our own, or there is none.
      tokens: what templates may name: `bos_token` and others.
      note: what a user should know of it; "" for nothing.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def write(self, folder: Path, ours: Mapping[str, str]) -> None:
        """Write the files as they were read; `ours` for those that are missing and needed."""
        needed = ours if CONFIG not in self.texts else {JINJA: ours[JINJA]}
        needed = {} if self.templates else needed
        for name, text in {**needed, **self.texts}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(text.encode())


def read_checkpoint_files(folder: Path) -> CheckpointFiles:
    """What lies in a folder beside its tokenizer.json.

    Raises:
      DataError: a file that is not what its name says.
    """
    names = [name for name in _PLAIN if (folder / name).is_file()]
    names += [f"{_FURTHER}/{path.name}" for path in sorted((folder / _FURTHER).glob("*.jinja"))]
    files = {name: _read(folder / name) for name in names}
    documents = {name: _document(folder / name, text) for name, text in files.items() if name.endswith(".json")}
    templates = _templates(folder, files, documents)
    tokens = _tokens(documents)
    if templates and set(map(_digest, templates.values())) <= _OURS:
        return CheckpointFiles(_without_templates(files, documents), {}, tokens)
    note = "" if templates else f"{folder}: holds no chat template; conversations are rendered with LFM2's"
    return CheckpointFiles(files, templates, tokens, note)


def _templates(folder: Path, files: Mapping[str, str], documents: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Of several places the one that transformers prefers: files of their own before entries of others."""
    found: dict[str, str] = {}
    for name in (CONFIG, "chat_template.json"):
        found |= _named(folder / name, documents.get(name, {}).get("chat_template"))
    found |= {DEFAULT: files[JINJA]} if JINJA in files else {}
    found |= {Path(name).stem: text for name, text in files.items() if name.startswith(_FURTHER)}
    if found and DEFAULT not in found:
        raise DataError(
            f"of its chat templates ({', '.join(found)}) none is called {DEFAULT!r}.",
            file=folder,
            remedy=f"Write the one to use to {JINJA}.",
        )
    return found


def _named(file: Path, value: Any) -> dict[str, str]:
    """`chat_template` of a JSON file: a text, or several with names."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    entries = [{"name": name, "template": text} for name, text in value.items()] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(map(_is_named, entries)):
        raise DataError(
            "`chat_template` is neither a text nor a list of named ones.",
            file=file,
            field="chat_template",
            remedy='Give a Jinja text, or [{"name": "default", "template": "..."}].',
        )
    return {entry["name"]: entry["template"] for entry in entries}


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)


def _tokens(documents: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """`bos_token` and the others, as texts; those of tokenizer_config.json before those of special_tokens_map.json."""
    given = {**documents.get(TOKENS, {}), **documents.get(CONFIG, {})}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in given.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}


def _without_templates(files: Mapping[str, str], documents: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The files of a folder that has our own template, which is then written as it is today."""
    kept = {name: text for name, text in files.items() if name != JINJA and not name.startswith(_FURTHER)}
    for name in (CONFIG, "chat_template.json"):
        if "chat_template" in documents.get(name, {}):
            kept[name] = json.dumps(documents[name] | {"chat_template": CHAT_TEMPLATE}, indent=2) + "\n"
    return kept


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}.", file=file, remedy="Copy it again from the checkpoint.") from error


def _document(file: Path, text: str) -> dict[str, Any]:
    try:
        found = parse(text)
    except ValueError as error:
        raise DataError(f"not JSON: {error}.", file=file, remedy="Copy it again from the checkpoint.") from error
    if not isinstance(found, dict):
        raise DataError(
            f"holds a {type(found).__name__}, not an object.", file=file, remedy="Copy it again from the checkpoint."
        )
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_OURS = {_digest(CHAT_TEMPLATE), *EARLIER}
