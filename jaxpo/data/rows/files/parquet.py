"""`.parquet`, one group of rows after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.compression import on_disk

_BYTES_AT_ONCE = 1 << 24


def read(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of every row, from 1, and its values; checksums of pages are checked where the file has them."""
    if file.stat().st_size == 0:
        return
    import pyarrow.parquet as pq

    from jaxpo.data.rows.files.arrow_rows import DAMAGE, rows_of, unreadable

    try:
        with on_disk(file) as source, pq.ParquetFile(source, page_checksum_verification=True) as table:
            yield from rows_of(file, table.iter_batches(batch_size=_rows_at_once(table.metadata)))
    except DAMAGE as error:
        raise unreadable(file, "Parquet file", error) from error


def _rows_at_once(metadata: Any) -> int:
    """Fewer rows where they are long."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(1024, _BYTES_AT_ONCE * metadata.num_rows // max(size, 1)))
