"""`.arrow`, in both forms: the stream that `datasets.save_to_disk` writes, and the file that Feather is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.compression import on_disk

_FILE_MAGIC = b"ARROW1"


def read(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of every row, from 1, and its values."""
    if file.stat().st_size == 0:
        return
    import pyarrow as pa

    from jaxpo.data.rows.files.arrow_rows import DAMAGE, rows_of, unreadable

    try:
        with on_disk(file) as found, _source(pa, found) as source:
            yield from rows_of(file, _batches(pa, source))
    except DAMAGE as error:
        raise unreadable(file, "Arrow stream or file", error) from error


def _source(pa: Any, found: Any) -> Any:
    return pa.memory_map(found) if isinstance(found, str) else pa.PythonFile(found)


def _batches(pa: Any, source: Any) -> Iterator[Any]:
    head = source.read(len(_FILE_MAGIC))
    source.seek(0)
    if head != _FILE_MAGIC:
        yield from pa.ipc.open_stream(source)
        return
    with pa.ipc.open_file(source) as table:
        yield from (table.get_batch(i) for i in range(table.num_record_batches))
