"""The corpus of the LFM2 recipe: Python's documentation to read and explain, and arithmetic to be right about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.corpora.files import corpus_hash, reusable, write
from jaxpo.corpora.stdlib_docs import StdlibDocs

HALVES = ("select", "report")
SUFFIX = "_heldout.jsonl"


@dataclass(frozen=True)
class RecipeCorpus:
    """Two corpora in folders of their own: "corpus:docs/FILE" and "corpus:arithmetic/FILE".

    Their held-out files come in halves too, "corpus:select/{pretrain,sft,pref,arithmetic}.jsonl" (rows 1, 3, ...) and
    "corpus:report/..." (rows 2, 4, ...): what chose a model cannot also say how good it is.
    """

    docs: StdlibDocs = field(default_factory=StdlibDocs)
    arithmetic: Arithmetic = field(default_factory=Arithmetic)

    def build(self, directory: Path) -> dict[str, Any]:
        """Build both, unless they are there.

        Returns:
          {"hash", "counts" and "files" (names with their folders), "lines", "reused" (both were there), "python"}.
        """
        built = {name: getattr(self, name).build(directory / name) for name in ("docs", "arithmetic")}
        whole = {
            file.removesuffix(SUFFIX): directory / name / file
            for name, report in built.items()
            for file in report["files"]
            if file.endswith(SUFFIX)
        }
        for i, half in enumerate(HALVES):
            built[half] = _write_half(directory / half, whole, i)

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


def _write_half(directory: Path, whole: Mapping[str, Path], first: int) -> dict[str, Any]:
    """Every second row of the held-out files."""
    texts = {f"{name}.jsonl": path.read_text("utf-8").splitlines()[first::2] for name, path in whole.items()}
    inputs = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    if (report := reusable(directory, inputs)) is not None:
        return {**report, "reused": True}
    counts = {name.removesuffix(".jsonl"): len(lines) for name, lines in texts.items()}
    rows = {name: [json.loads(line) for line in lines] for name, lines in texts.items()}
    return {**write(directory, rows, {"counts": counts, "lines": [], "inputs": inputs}), "reused": False}
