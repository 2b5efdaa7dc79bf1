"""Run all claims and write `docs/evidence.md` (`scripts/evidence`); what was measured already is not repeated."""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from evidence.harness import Result, discover, run

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "evidence"
HEAD = """\
# Evidence

For every paper, the smallest experiment that can show what it claims, on toy problems that run in seconds; written by
`scripts/evidence`. Each claim, its seeds and its threshold were committed before the run. An effect is counted so that
larger is better for the method; it stands as mean ± standard deviation over the seeds. Reproduced means: the mean
effect reaches the threshold, and the registered share of seeds has the claimed sign. Where a claim failed and another
was registered afterwards, on seeds of its own, both stand here. Toy scale says nothing about the size of an effect on
large models.
"""


def main(argv: Sequence[str]) -> int:
    """Measure what is asked for; the table holds every claim that has been measured with its present code."""
    parser = argparse.ArgumentParser(prog="scripts/evidence", description=__doc__)
    parser.add_argument("names", nargs="*", help="claims (default: all)")
    parser.add_argument("--again", action="store_true", help="measure again what was measured already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence.md")
    args = parser.parse_args(argv)
    claims = discover()
    unknown = set(args.names) - set(claims)
    if unknown:
        parser.error(f"no claim {', '.join(sorted(unknown))}; there are: {', '.join(claims)}")
    results = []
    for number, (name, module) in enumerate(claims.items(), start=1):
        wanted = not args.names or name in args.names
        result = None if args.again and wanted else stored(name, module)
        if result is None and wanted:
            print(f"[{number}/{len(claims)}] {name}: {module.CLAIM.claim}", flush=True)
            result = run(name, module, lambda line: print(f"  {line}", flush=True))
            store(result, module)
        if result is not None:
            results.append(result)
            print(f"[{number}/{len(claims)}] {line(result)}", flush=True)
    args.out.write_text(page(results), encoding="utf-8")
    failed = [r.name for r in results if r.reproduced == (r.claim.not_reproduced is not None)]
    print(f"{args.out.relative_to(ROOT) if args.out.is_relative_to(ROOT) else args.out}: {summary(results)}")
    if failed:
        print(f"not as registered: {', '.join(failed)}")
    return 1 if failed else 0


def page(results: Sequence[Result]) -> str:
    """The whole document."""
    held = [r for r in results if r.claim.not_reproduced is None]
    missed = [r for r in results if r.claim.not_reproduced is not None]
    lines = [HEAD, f"{summary(results)}\n", "## Reproduced\n", *table(held)]
    if missed:
        lines += ["\n## Not reproduced\n", *table(missed), ""]
        lines += [f"- **{r.name}**: {r.claim.not_reproduced.reason}" for r in missed if r.claim.not_reproduced]
    return "\n".join(lines) + "\n"


def summary(results: Sequence[Result]) -> str:
    """How many of each."""
    missed = sum(r.claim.not_reproduced is not None for r in results)
    seconds = sum(r.seconds for r in results)
    return f"{len(results)} claims: {len(results) - missed} reproduced, {missed} not; {seconds:.0f} s in all."


def table(results: Sequence[Result]) -> list[str]:
    """A row per claim."""
    head = "| method | paper | claim | baseline | measure | method | baseline | effect | threshold | seeds | command |"
    rows = [head, "|---" * 11 + "|"]
    for r in results:
        numbers = " | ".join(f"{r.mean(k):.3g} ± {r.spread(k):.2g}" for k in ("method", "baseline", "effect"))
        seeds = f"{len(r.claim.seeds)} ({r.share:.0%} with the sign)"
        words = (r.claim.method, r.claim.paper, r.claim.claim, r.claim.baseline, r.claim.measure)
        texts = " | ".join(word.replace("|", "\\|") for word in words)
        command = f"`scripts/evidence {r.name}`"
        rows.append(f"| {texts} | {numbers} | {r.claim.threshold:g} | {seeds} | {command} |")
    return rows


def line(result: Result) -> str:
    """One line for the terminal."""
    word = "reproduced" if result.reproduced else "NOT reproduced"
    effect = f"{result.mean('effect'):.4g} ± {result.spread('effect'):.2g}"
    return f"{result.name}: {word}: effect {effect} (threshold {result.claim.threshold:g}), {result.seconds:.1f} s"


def key_of(module: ModuleType) -> str:
    """Identifies a claim's code: when it, what the claims share, or a loss is edited, it is measured again."""
    return hashlib.sha256(inspect.getsource(module).encode() + shared_code()).hexdigest()


@functools.cache
def shared_code() -> bytes:
    """The sources of the harness, of the claims' helpers, and of all losses."""
    here = Path(__file__).parent
    files = [here / "harness.py", *(here / "claims").glob("_*.py"), *(ROOT / "jaxpo" / "losses").glob("*.py")]
    return b"".join(file.read_bytes() for file in sorted(files))


def store(result: Result, module: ModuleType) -> None:
    """Keep the numbers, so that an interrupted run goes on where it stopped."""
    CACHE.mkdir(parents=True, exist_ok=True)
    entry = {"key": key_of(module), "values": result.values, "seconds": result.seconds}
    temporary = CACHE / f".{result.name}.tmp"
    temporary.write_text(json.dumps(entry))
    temporary.replace(CACHE / f"{result.name}.json")


def stored(name: str, module: ModuleType) -> Result | None:
    """The numbers of an earlier run of the same code."""
    file = CACHE / f"{name}.json"
    if not file.is_file():
        return None
    entry = json.loads(file.read_text())
    if entry["key"] != key_of(module):
        return None
    return Result(name, module.CLAIM, tuple(entry["values"]), entry["seconds"])
