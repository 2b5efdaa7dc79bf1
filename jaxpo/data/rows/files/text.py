"""`.txt`: one document per file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxpo.data.rows.files.encoding import characters, undecodable
from jaxpo.errors import DataError


def read(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The document, unless there is nothing in it."""
    text = text_of(file)
    if text.strip():
        yield 1, {"text": text}


def text_of(file: Path) -> str:
    """A file's text, with `\\n` at the end of every line."""
    with characters(file, newline=None) as stream:
        text = stream.read()
    if (foreign := undecodable(text)) is not None:
        line = text[: _first_foreign(text)].count("\n") + 1
        raise DataError(f"line {line}: {foreign}", file=file)
    if "\0" in text:
        raise DataError(
            "holds NUL characters: it is UTF-16 without a mark, or no text.",
            file=file,
            remedy="Convert it: `iconv -f UTF-16LE -t UTF-8 OLD > NEW`.",
        )
    return text


def _first_foreign(text: str) -> int:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return len(text)
