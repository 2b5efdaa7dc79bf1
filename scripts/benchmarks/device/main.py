"""Runs the parts one after another, each in a process with a time limit; what was found is kept after each part."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
BUDGET = 470.0
Line = dict[str, Any]

# In order: module and function, seconds at most.
PARTS: dict[str, tuple[str, str, float]] = {
    "backends": ("backends", "run", 100),
    "train_1_2b": ("training", "big", 120),
    "peer_train_1_2b": ("peer", "train", 110),
    "decode": ("generation", "decode", 70),
    "peer_decode": ("peer", "decode", 60),
    "train_350m": ("training", "small", 70),
    "dpo": ("training", "dpo", 70),
    "head": ("generation", "head", 40),
    "unrolled": ("training", "unrolled", 70),
    "other_backends": ("training", "other_backends", 90),
}


def lines_of(part: str, tiny: bool) -> Iterator[Line]:
    """What one part finds, in this process."""
    from benchmarks.device.stand_in import without_jaxtyping

    without_jaxtyping()
    import importlib

    module, function, _ = PARTS[part]
    find: Callable[[bool], Iterator[Line]] = getattr(importlib.import_module(f"benchmarks.device.{module}"), function)
    yield from find(tiny)


def about() -> Line:
    """The device and the versions."""
    from importlib import metadata

    import jax

    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "count": len(devices),
        "platform": devices[0].platform,
        "python": sys.version.split()[0],
        **versions,
    }


def command_of(part: str, tiny: bool) -> list[str]:
    """What runs a part."""
    return [sys.executable, "-m", "benchmarks.device.main", "--part", part, *(["--tiny"] if tiny else [])]


def run_part(part: str, tiny: bool, limit: float, environment: dict[str, str]) -> list[Line]:
    """The lines of a part in a process of its own; those before a failure or the limit count too."""
    start = time.perf_counter()
    # To files: what a process wrote before it was ended is not lost with it.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            code: int | None = subprocess.run(
                command_of(part, tiny), stdout=out, stderr=err, timeout=limit, env=environment, cwd=ROOT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines() if line.startswith("{")]
        said = [line for line in err.read().strip().splitlines() if line.strip()]
    if code is None:
        lines.append({"error": f"not done after {limit:.0f} s"})
    elif code:
        lines.append({"error": f"exit status {code}: {said[-1] if said else 'it said nothing'}", "log": said[-20:]})
    took = time.perf_counter() - start
    return [{"part": part, "took": round(took, 1), **line} for line in lines]


def surroundings(cache: str) -> dict[str, str]:
    """Of the parts: this tree, a compilation cache that they share, and most of the device's memory."""
    path = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
    }


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench --device", description=__doc__)
    parser.add_argument("--parts", help=f"some of {','.join(PARTS)}; default: all, in this order")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="S", help=f"seconds in all (default: {BUDGET:.0f})"
    )
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder of gpu.jsonl and gpu.md")
    parser.add_argument("--tiny", action="store_true", help="shapes that a CPU can run: does the script work")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--about", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    asked.parts = asked.parts.split(",") if asked.parts else list(PARTS)
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if asked.out is None:
        # Tiny shapes say nothing that is worth keeping.
        asked.out = Path(tempfile.mkdtemp()) if asked.tiny else ROOT / "docs" / "bench"
    return asked


def describe(environment: dict[str, str]) -> Line:
    """`about` of a process of its own: the device stays free for the parts."""
    command = [sys.executable, "-m", "benchmarks.device.main", "--about"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=120)
    if done.returncode:
        raise SystemExit(f"error: jax does not start here:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(argv: Sequence[str]) -> int:
    """Exit status: 1 when a part failed or a backend computes something else."""
    asked = arguments(argv)
    if asked.about:
        print(json.dumps(about()))
        return 0
    if asked.part:
        for line in lines_of(asked.part, asked.tiny):
            print(json.dumps(line), flush=True)
        return 0
    from benchmarks.device.document import write

    end = time.perf_counter() + asked.budget
    with tempfile.TemporaryDirectory() as cache:
        environment = surroundings(cache)
        machine = describe(environment)
        print(f"{machine['count']} x {machine['device']}, jax {machine['jax']}; results in {asked.out}", flush=True)
        lines: list[Line] = []
        for part in asked.parts:
            limit = min(PARTS[part][2], end - time.perf_counter())
            if limit < 10:
                found = [{"part": part, "missing": f"the {asked.budget:.0f} s of the run were over"}]
            else:
                print(f"{part}, at most {limit:.0f} s", flush=True)
                found = run_part(part, asked.tiny, limit, environment)
            lines += found
            for line in found:
                print("  " + json.dumps({k: v for k, v in line.items() if k != "log"}), flush=True)
            write(asked.out, machine, lines)
    return int(any(isinstance(line.get("error"), str) or line.get("passed") is False for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
