"""Bytes to characters: UTF-8, or what a byte order mark says; anything else is an error with a remedy, no guess."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxpo.data.rows.files.compression import opened
from jaxpo.errors import DataError

# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK = "\ufeff"
REMEDY = "Convert it to UTF-8; of a file from Windows: `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`."


@contextlib.contextmanager
def characters(
    file: Path, *, newline: str | None = "\n", guess: Callable[[bytes], str] | None = None
) -> Iterator[io.TextIOWrapper]:
    """The characters of a file without its byte order mark.

    A byte that is no UTF-8 becomes a lone surrogate, so that a reader which knows rows and fields can name them;
    `undecodable` finds it.

    Args:
      newline: as of `open`.
      guess: what a file without a mark is encoded in, by its first four bytes; None = UTF-8.
    """
    with opened(file) as stream:
        head = stream.peek(4)[:4]
        mark, encoding = next((found for found in _MARKS if head.startswith(found[0])), (b"", "utf-8"))
        if not mark and guess is not None:
            encoding = guess(head)
        stream.read(len(mark))
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        text = io.TextIOWrapper(stream, encoding, errors, newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            said = f"not valid {encoding.upper()}, which its first bytes say it is: {error.reason}."
            raise DataError(said, file=file, remedy="Copy the file again, or convert it to UTF-8.") from error
        finally:
            text.detach()


def undecodable(text: str) -> DataError | None:
    """The error, without its place, for the first byte that was no UTF-8; None when there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        try:
            shown = f" (in Windows-1252 it would be {bytes([byte]).decode('cp1252')!r})"
        except UnicodeDecodeError:
            shown = ""
        return DataError(f"not UTF-8: byte 0x{byte:02x}{shown}.", remedy=REMEDY)
    return None
