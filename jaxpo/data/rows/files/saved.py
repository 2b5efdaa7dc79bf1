"""Folders that `datasets.Dataset.save_to_disk` and `DatasetDict.save_to_disk` wrote: they say what belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"
_REMEDY = "Save the data set again, or copy the whole folder."


def stated_files(folder: Path) -> list[Path] | None:
    """The files of rows that a folder's `state.json` names, in order; None where it is no saved data set.

    Raises:
      DataError: a named file, or a split that `dataset_dict.json` names, is not there; rows are picked by indices.
    """
    for split in _read(folder / SPLITS).get("splits", ()):
        if not (folder / str(split) / STATE).is_file():
            raise DataError(f"the split {split!r}, which {SPLITS} names, is not there.", file=folder, remedy=_REMEDY)
    state = _read(folder / STATE)
    if "_data_files" not in state:
        return None
    if state.get("_indices_data_files"):
        raise DataError("rows are picked by indices.", file=folder, remedy="Save it after `dataset.flatten_indices()`.")
    try:
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise DataError("_data_files is no list of file names.", file=folder / STATE, remedy=_REMEDY) from error
    for file in files:
        if file.parent != folder or not file.is_file():
            raise DataError(f"{file.name}, which {STATE} names, is not there.", file=folder, remedy=_REMEDY)
    return files


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file, or where it is something else's."""
    if not file.is_file():
        return {}
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}.", file=file, remedy=_REMEDY) from error
    return found if isinstance(found, dict) else {}
