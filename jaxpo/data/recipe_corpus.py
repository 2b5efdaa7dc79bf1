"""The corpus of the LFM2 recipe: Python's documentation to read and explain, and arithmetic to be right about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.data.arithmetic import Arithmetic
from jaxpo.data.corpus_files import corpus_hash
from jaxpo.data.stdlib_docs import StdlibDocs


@dataclass(frozen=True)
class RecipeCorpus:
    """Two corpora in folders of their own: "corpus:docs/FILE" and "corpus:arithmetic/FILE"."""

    docs: StdlibDocs = field(default_factory=StdlibDocs)
    arithmetic: Arithmetic = field(default_factory=Arithmetic)

    def build(self, directory: Path) -> dict[str, Any]:
        """Build both, unless they are there.

        Returns:
          {"hash", "counts" and "files" (names with their folders), "lines", "reused" (both were there), "python"}.
        """
        built = {name: getattr(self, name).build(directory / name) for name in ("docs", "arithmetic")}

        def together(key: str) -> dict[str, Any]:
            return {f"{name}/{k}": v for name, report in built.items() for k, v in report[key].items()}

        return {
            "hash": corpus_hash({name: report["hash"] for name, report in built.items()}),
            "python": built["docs"]["python"],
            "counts": together("counts"),
            "files": together("files"),
            "lines": [line for report in built.values() for line in report["lines"]],
            "reused": all(report["reused"] for report in built.values()),
        }
