"""All measurements of a run side by side, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Probes = Mapping[str, Mapping[str, Any]]


def probe_table(probes: Probes) -> list[str]:
    """One line per measurement, one column per stage; intervals and n stand in `summary.json`.

    Args:
      probes: stage -> name -> number or {"value", ...}, as in `summary.json`.
    """
    stages = list(probes)
    names = list(dict.fromkeys(name for measured in probes.values() for name in measured))
    if not names:
        return []
    cells = [["", *stages], *([name, *(_shown(probes[s].get(name)) for s in stages)] for name in names)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(stages) + 1)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]


def _shown(found: Any) -> str:
    value = found.get("value") if isinstance(found, Mapping) else found
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
