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
        if "://" in str(name):
            raise DataError("lies elsewhere.", file=name, remedy="Stages read remote files; here, copy it first.")
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
    inside = sorted(path for path in folder.rglob("*") if _is_entry(path))
    shown = [path for path in inside if not _is_hidden(path.relative_to(folder))]
    usable = _usable([path for path in shown if path.is_file()])
    # Hidden files are notes of other programs, unless they are called as data are.
    there = [path for path in inside if path.name not in NOTES and (path in shown or is_data(path))]
    skipped = [path for path in there if path not in set(usable)]
    if not usable:
        these = f": {listed(folder, skipped)} cannot be read" if skipped else ""
        raise DataError(f"the folder holds no data file{these}.", file=folder, remedy=ACCEPTED)
    if skipped:
        say(f"{folder}: {len(skipped)} file(s) are skipped: {listed(folder, skipped)}")
    chosen, left_out = choose(folder, usable, part)
    if left_out:
        say(left_out)
    _check_formats(folder, chosen, say)
    return chosen


def _is_entry(path: Path) -> bool:
    """Files, and links to folders, which are not followed; DataError for data that a link points to in vain."""
    if path.is_symlink() and not path.exists() and is_data(path):
        raise DataError("a link to a file that is not there.", file=path, remedy="Download or copy the data again.")
    return path.is_file() or (path.is_symlink() and path.is_dir())


def _is_hidden(inside: Path) -> bool:
    return any(name.startswith(".") for name in inside.parts)


def _usable(files: Sequence[Path]) -> list[Path]:
    """The files with rows; of a saved data set those that it names, in its order."""
    stated = {folder: stated_files(folder) for folder in dict.fromkeys(file.parent for file in files)}
    found: list[Path] = []
    for folder, names in stated.items():
        own = [file for file in files if file.parent == folder and is_data(file) and file.name not in NOTES]
        found += own if names is None else names
    return found if any(stated.values()) else sorted(found)


def _check_formats(folder: Path, files: Sequence[Path], say: Say) -> None:
    """Two files that may be one another in another form: beside each other they are refused, elsewhere it is said."""
    known: dict[str, Path] = {}
    for file in files:
        other = known.setdefault(base_of(file), file)
        both = f"{other.relative_to(folder)} and {file.relative_to(folder)}"
        if other != file and other.parent == file.parent:
            raise DataError(
                f"{both} seem to be the same rows in two forms.",
                file=folder,
                remedy="Name the files to read instead of the folder, or remove one of the two.",
            )
        if format_of(other) != format_of(file):
            say(f"{folder}: {both} are both read; if they are the same rows in two forms, name one of them instead")
