"""What follows from the starts of a run: its goodput, and which process is behind. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

Json = dict[str, Any]
STARTS = "starts.json"
NO_STAGE = ""
PARTS = ("step", "again", "compile", "data", "eval", "save", "startup", "work", "other")
"""What a start does: steps that count, steps that an earlier start had taken already, and so on. "work" makes data or
models without a training step: work stages, teacher records, merges."""
DOWN = "down"
"""Between two starts."""
OWN = ("data", "save", "other")
"""Parts in which a process does not wait for another: the time of a slow one shows here, that of the others in the
step."""
CLOCKS = {"began": float, "seen": float, "boot": str, "uptime": float, DOWN: float, "ended": str}
"""Of each start: wall clock at its first and last sign, the boot and its clock then, seconds since the start before."""


def starts_of(stored: Any) -> list[Json]:
    """The starts in the content of `starts.json`.

    Raises:
      ValueError: it holds something else.
    """
    try:
        starts: list[Json] = [dict(start) for start in stored["starts"]]
        odd = [k for start in starts for k, kind in CLOCKS.items() if not isinstance(start[k], kind)]
        sums = summary(starts), reached(starts)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"holds no starts of a run: {type(error).__name__}: {error}") from error
    if odd or not all(isinstance(step, int) for step in sums[1].values()):
        raise ValueError(f"holds no starts of a run: {', '.join(odd) or 'reached'}")
    return starts


def reached(starts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Stage -> the furthest step that a start is known to have taken."""
    found: dict[str, int] = {}
    for start in starts:
        for stage, of in start["stages"].items():
            found[stage] = max(of["reached"], found.get(stage, 0))
    return found


def summary(starts: list[Json]) -> Json:
    """Seconds of a run over its starts, by part, and by part for each stage; and the share of steps that count.

        goodput = step / (all parts + down)      of a stage: step / (all parts of the stage)

    Returns:
      {"starts", "seconds", "goodput", "parts": {part: seconds, "down": seconds}, "stages": {stage: {"seconds",
      "goodput", "parts"}}}
    """
    stages: dict[str, dict[str, float]] = {}
    for start in starts:
        for stage, of in start["stages"].items():
            sums = stages.setdefault(stage, {})
            for part, seconds in of["seconds"].items():
                sums[part] = sums.get(part, 0.0) + seconds
    down = sum(start[DOWN] for start in starts)
    parts = {p: sum(s.get(p, 0.0) for s in stages.values()) for p in PARTS} | {DOWN: down}
    shares = {name: _shared(sums) for name, sums in stages.items() if name != NO_STAGE}
    return {"starts": len(starts), **_shared(parts), "stages": shares}


def _shared(parts: Mapping[str, float]) -> Json:
    total = sum(parts.values())
    return {"seconds": total, "goodput": parts.get("step", 0.0) / total if total else 0.0, "parts": dict(parts)}


def behind(before: list[Json], now: list[Json]) -> list[float]:
    """Seconds per step that each process spends by itself, above the median of the others.

    own_i = sum over OWN of (seconds now - seconds before) / steps        lag_i = own_i - median(own_j, j != i)
    """
    own = [own_time(n) - own_time(b) for b, n in zip(before, now, strict=True)]
    steps = max(now[0]["steps"] - before[0]["steps"], 1)
    return [(x - median(own[:i] + own[i + 1 :])) / steps for i, x in enumerate(own)]


def own_time(said: Json) -> float:
    """Seconds in which a process did not wait for another."""
    return float(sum(said["seconds"].get(part, 0.0) for part in OWN))
