"""Data files named in a configuration: do they exist?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxpo.config import Run
from jaxpo.stages.serialise import did_you_mean


def file_problems(run: Run, field: str, files: tuple[str, ...]) -> Iterator[str]:
    """Files that do not exist; `corpus:` files need a corpus."""
    for name in files:
        if name.startswith("corpus:"):
            if run.corpus is None:
                yield f"{field}: {name!r} names a file of the run's corpus, but the run has no corpus."
        elif not Path(name).exists():
            parent = Path(name).parent
            siblings = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
            near = did_you_mean(Path(name).name, siblings, prefix="" if str(parent) == "." else f"{parent}/")
            yield f"{field}: there is no file or folder {name}.{near}"
        elif Path(name).is_dir() and not any(Path(name).iterdir()):
            yield f"{field}: the folder {name} is empty."
