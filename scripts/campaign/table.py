"""The table of docs/reliability.md, between its marks."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from campaign.scene import Tally

BEGIN, END = "<!-- scripts/faults: begin -->", "<!-- scripts/faults: end -->"
PACKAGES = ("jax", "jaxlib", "orbax-checkpoint", "grain", "moto", "s3fs")


@dataclass(frozen=True)
class Row:
    """A fault and what came of it; `untried` says why there is no tally."""

    name: str
    holds: str
    tally: Tally
    untried: str | None = None


def markdown(rows: Sequence[Row], seed: int) -> str:
    """All of it: a line for each fault, what did not hold, and what it was done on."""
    lines = [["what happens", "what must hold", "tried", "survived", "steps lost"], ["---"] * 5]
    for row in rows:
        counts = [str(row.tally.tried), str(row.tally.survived), str(row.tally.lost)]
        lines.append([row.name, row.holds, *([f"not tried: {row.untried}", "", ""] if row.untried else counts)])
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    wrong = [f"- {row.name}: {text}" for row in rows for text in dict.fromkeys(row.tally.wrong)]
    if wrong:
        parts.append("What did not hold:\n\n" + "\n".join(wrong))
    parts.append(facts(seed))
    return "\n\n".join(parts)


def facts(seed: int) -> str:
    """What it was done on."""
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"Seed {seed}; {cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{versions}; {day}."
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def keep(file: Path, row: Row) -> None:
    """Put a fault's tally beside those of the others."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept[row.name] = dataclasses.asdict(row)
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def kept_rows(file: Path, names: Sequence[str]) -> list[Row]:
    """Those that were kept, in the order of the names."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    return [Row(**{**kept[name], "tally": Tally(**kept[name]["tally"])}) for name in names if name in kept]


def write(document: Path, text: str) -> None:
    """Put a new table between the document's marks.

    Raises:
      ValueError: no marks.
    """
    old = document.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise ValueError(f"{document} lacks the lines {BEGIN} and {END}, between which the table goes")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
