"""Names of files and folders to the files that are read; what of a folder is not read is said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxpo.data.rows.files.readers import ACCEPTED, base_of, format_of, is_data, reader_of
from jaxpo.data.rows.files.saved import stated_files
from jaxpo.data.rows.files.splits import Part, choose, listed
from jaxpo.errors import DataError

Say = Callable[[str], None]
# What `datasets.save_to_disk` and downloads of data sets put beside the data.
NOTES = ("dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")


def to_stderr(line: str) -> None:
    """Where a command says what it does not read, when nobody else does."""
    print(line, file=sys.stderr)


def unsaid(line: str) -> None:
    """For files that are listed a second time."""


def list_files(names: Iterable[str | Path], *, part: Part = "train", say: Say = to_stderr) -> list[Path]:
    """Expand folders (recursively, sorted by path); every file is checked to exist and to have a reader.

    Args:
      part: which split of a folder is meant; files that are named themselves are read whatever they are called.
      say: receives one sentence about each folder of which something is not read.

    Raises:
      DataError: nothing to read, an unknown suffix, a folder that leaves open what is meant; names it and the remedy.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += _of_folder(path, part, say)
        elif path.is_file():
            reader_of(path)
            found.append(path)
        else:
            raise DataError("no such file or folder.", file=path, remedy="Check the path in data.train / data.eval.")
    if not found:
        raise DataError("no data files are named.", remedy="Set data.train to a JSONL, Parquet or text file.")
    return found


def _of_folder(folder: Path, part: Part, say: Say) -> list[Path]:
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = sorted(folder / path for path in inside if not any(name.startswith(".") for name in path.parts))
    usable = _usable(shown)
    skipped = [path for path in shown if path not in set(usable)]
    if not usable:
        there = f": {listed(folder, skipped)} cannot be read" if skipped else ""
        raise DataError(f"the folder holds no data file{there}.", file=folder, remedy=ACCEPTED)
    if skipped:
        hidden = len(inside) - len(shown)
        more = f", and {hidden} hidden" if hidden else ""
        say(f"{folder}: {len(skipped)} file(s) hold no rows and are skipped{more}: {listed(folder, skipped)}")
    chosen, left_out = choose(folder, usable, part)
    if left_out:
        say(left_out)
    _check_formats(folder, chosen)
    return chosen


def _usable(files: Sequence[Path]) -> list[Path]:
    """The files with rows; of a saved data set those that it names, in its order."""
    stated = {folder: stated_files(folder) for folder in dict.fromkeys(file.parent for file in files)}
    found: list[Path] = []
    for folder, names in stated.items():
        own = [file for file in files if file.parent == folder and is_data(file) and file.name not in NOTES]
        found += own if names is None else names
    return found if any(stated.values()) else sorted(found)


def _check_formats(folder: Path, files: Sequence[Path]) -> None:
    """No two files that are one another in another form: their rows would be trained on twice."""
    known: dict[Path, Path] = {}
    for file in files:
        base = file.parent / base_of(file)
        other = known.setdefault(base, file)
        if other != file:
            raise DataError(
                f"{other.relative_to(folder)} and {file.relative_to(folder)} seem to be the same rows in two forms "
                f"({format_of(other)}, {format_of(file)}).",
                file=folder,
                remedy="Name the files to read instead of the folder, or remove one of the two.",
            )
