"""Which files a method reads: pairs of images, single ones, or captions alone; seen before anything is built."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxpo.data.images.folders import TEXTS, images_in, is_image_folder, is_pair_folder
from jaxpo.data.images.formats import FORMATS, Holds, format_of, known
from jaxpo.data.rows.files.splits import Part
from jaxpo.data.rows.formats import Row, list_files, read_rows
from jaxpo.data.rows.needs import Needs
from jaxpo.errors import DataError

METHOD = "the method"
WRONG_KIND: dict[Holds, str] = {
    "pairs": "Give images with captions, or choose a loss on pairs: --STAGE.loss diffusion_dpo.",
    "single images": "Give pairs: chosen_image and rejected_image, or folders w/ and l/.",
    "captions alone": known(),
}
"""What is done about files that a method does not read."""


def listed(files: Sequence[str], part: Part, log: Callable[[str], None]) -> tuple[list[Path], list[Path]]:
    """Folders of images, and the files of rows that the other names stand for."""
    folders = [Path(name) for name in files if is_image_folder(Path(name))]
    others = [name for name in files if Path(name) not in folders]
    return folders, list_files(others, part=part, say=log) if others else []


def contents(folder: Path) -> list[Path]:
    """The files of a folder that are read: images and the texts beside them."""
    found = images_in(folder)
    texts = [path.with_suffix(suffix) for path in found for suffix in TEXTS]
    return found + [path for path in texts if path.is_file()]


def check_forms(files: Sequence[str], needs: Needs, method: str = METHOD) -> None:
    """See that the first row of files, and every folder, is of a form that a method reads.

    Args:
      method: its name, for messages.

    Raises:
      DataError: it is not, or of no form at all.
    """
    folders, tables = listed(files, "eval", lambda line: None)
    for folder in folders:
        right_folder(needs, folder, method)
    for row in itertools.islice(read_rows(tables), 1) if tables else ():
        right_row(needs, row, method)


def _read_of(needs: Needs) -> tuple[Holds, ...]:
    """What files may hold for a method; one that reads captions is given images beside them as well."""
    if "chosen" in needs.roles:
        return ("pairs",)
    return ("captions alone", "single images") if "caption" in needs.roles else ("single images",)


def right_row(needs: Needs, row: Row, method: str) -> None:
    """DataError for a row of a form that the method does not read."""
    name = format_of(row)
    _right_kind(needs, FORMATS[name].holds, name, method, row.error)


def right_folder(needs: Needs, folder: Path, method: str) -> None:
    """Likewise of a folder of images."""
    holds: Holds = "pairs" if is_pair_folder(folder) else "single images"
    _right_kind(needs, holds, "folder", method, functools.partial(DataError, file=folder))


def _right_kind(needs: Needs, holds: Holds, name: str, method: str, error: Callable[..., DataError]) -> None:
    wanted = _read_of(needs)
    if holds in wanted:
        return
    raise error(f"holds {holds} ({name}), and {method} reads {' or '.join(wanted)}.", remedy=WRONG_KIND[holds])
