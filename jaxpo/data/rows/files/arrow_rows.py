"""Arrow's record batches as rows of plain values: what JSON has no form for becomes what it would be in a JSONL file.

Decimals become numbers, dates and times text (ISO 8601), maps objects, binary that is UTF-8 text; other binary stays.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxpo.errors import DataError

AT_ONCE = 1024
# What pyarrow raises for damaged files, and for values that Python has no form for.
DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError, TypeError, KeyError)


def rows_of(file: Path, batches: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of every row, from 1, and its values."""
    before = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise DataError(
                "the column stands twice in the file.", file=file, field=twice, remedy="Rename one of them."
            )
        # Offsets and indices of a damaged file may point anywhere, also outside of memory.
        batch.validate(full=True)
        batch = _with_text_times(batch)
        plain = _plain if any(_is_special(field.type) for field in batch.schema) else _as_it_is
        for start in range(0, batch.num_rows, AT_ONCE):
            for number, row in enumerate(_listed(file, before, start, batch.slice(start, AT_ONCE)), before + start + 1):
                yield number, plain(row)
        before += batch.num_rows


def unreadable(file: Path, what: str, error: Exception) -> DataError:
    """The DataError for what pyarrow raised."""
    said = str(error).strip().rstrip(".")[:300]
    return DataError(f"not a readable {what}: {said}.", file=file, remedy="Copy it again, or write it again.")


def _listed(file: Path, before: int, start: int, part: Any) -> list[dict[str, Any]]:
    """The rows of a part of a batch; DataError names the value that Python cannot hold."""
    try:
        return _in_microseconds(part).to_pylist(maps_as_pydicts="strict")
    except DAMAGE as whole:
        for name, column in zip(part.schema.names, part.columns, strict=True):
            for i, value in enumerate(column):
                try:
                    _exact(value).as_py(maps_as_pydicts="strict")
                except DAMAGE as error:
                    raise DataError(
                        f"the value cannot be read: {error}.",
                        file=file,
                        row=before + start + i + 1,
                        field=name,
                        remedy="Convert the column to text or numbers, or leave it out.",
                    ) from error
        raise DataError(f"cannot be read: {whole}.", file=file, row=before + start + 1) from whole


def _in_microseconds(part: Any) -> Any:
    """Durations of nanoseconds as Python's, which has no nanoseconds; with pandas they would come as pandas' own."""
    for i, field in enumerate(part.schema):
        part = part.set_column(i, field.name, _exact(part.column(i)))
    return part


def _exact(values: Any) -> Any:
    """Of durations of nanoseconds those in microseconds; ArrowInvalid where one is no whole number of them."""
    return values.cast(pa.duration("us")) if values.type == pa.duration("ns") else values


def _with_text_times(batch: Any) -> Any:
    """Dates and times as text, which keeps nanoseconds and years that Python's own types have no room for."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_temporal(field.type) and not _is_span(field.type):
            # What cannot be written, as in a zone that nobody knows, is named when its rows are made.
            with contextlib.suppress(*DAMAGE):
                batch = batch.set_column(i, field.name, batch.column(i).cast(pa.string()))
    return batch


def _is_span(kind: Any) -> bool:
    return pa.types.is_duration(kind) or pa.types.is_interval(kind)


def _is_special(kind: Any) -> bool:
    """Whether values of an Arrow type, or of a type inside it, come as something that JSON has no form for."""
    if pa.types.is_nested(kind):
        return any(_is_special(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _is_special(kind.value_type)
    return not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _as_it_is(value: Any) -> Any:
    return value


def _plain(value: Any) -> Any:
    convert = _FORMS.get(type(value))
    return value if convert is None else convert(value)


def _number(value: decimal.Decimal) -> int | float:
    return int(value) if value.as_tuple().exponent == 0 else float(value)


def _text(value: bytes) -> str | bytes:
    """Binary columns of older writers are text; images and sound are not."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return value if "\0" in text else text


_FORMS: dict[type, Callable[[Any], Any]] = {
    dict: lambda value: {name: _plain(part) for name, part in value.items()},
    list: lambda value: [_plain(part) for part in value],
    decimal.Decimal: _number,
    bytes: _text,
    datetime.datetime: str,
    datetime.date: str,
    datetime.time: str,
}
