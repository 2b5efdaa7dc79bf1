"""Data files named in a configuration: do they exist, or will they?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxpo.config import Run
from jaxpo.data.images.folders import is_image_folder
from jaxpo.data.rows.files.listing import list_files, unsaid
from jaxpo.data.rows.files.remote import filesystem, is_remote, place_of
from jaxpo.errors import ConfigError, DataError, did_you_mean


def file_problems(
    run: Run, field: str, files: Sequence[str], earlier: Sequence[Any] = (), *, images: bool = False
) -> Iterator[str]:
    """Files that do not exist; `corpus:` files need a corpus, `stage:` files an earlier stage that writes them.

    Args:
      images: folders may hold images instead of files of rows.
    """
    for name in files:
        if name.startswith("corpus:"):
            if run.corpus is None:
                yield f"{field}: {name!r} names a file of the run's corpus, but the run has no corpus."
        elif name.startswith("stage:"):
            yield from written_problems(field, name, earlier)
        elif is_remote(name):
            try:
                place_of(name, Path())
                filesystem(name)
            except ConfigError as error:
                yield f"{field}: {error}"
        elif not Path(name).exists():
            parent = Path(name).parent
            siblings = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
            near = did_you_mean(Path(name).name, siblings, prefix="" if str(parent) == "." else f"{parent}/")
            yield f"{field}: there is no file or folder {name}.{near}"
        elif Path(name).is_dir() and not any(Path(name).iterdir()):
            yield f"{field}: the folder {name} is empty."
        elif Path(name).is_dir() and not (images and is_image_folder(Path(name))):
            try:
                list_files([name], part="eval" if field.endswith(".eval") else "train", say=unsaid)
            except DataError as error:
                yield f"{field}: {error}"


def written_problems(field: str, name: str, earlier: Sequence[Any]) -> Iterator[str]:
    """A "stage:NAME/FILE" that no earlier work stage writes."""
    written = [f"stage:{s.name}/{file}" for s in earlier for file in s.outputs()]
    if name not in written:
        known = f"they write {', '.join(written)}" if written else "there is none"
        yield f"{field}: no work stage before this one writes {name!r} ({known}).{did_you_mean(name, written)}"
