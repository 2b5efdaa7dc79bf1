"""W5: losses over the vocabulary head and their gradients, time and memory, beside dense, TRL's and Liger's forms."""

from __future__ import annotations

from typing import Any

from benchmarks.ceilings import best_products, described, has
from benchmarks.head_cases import Shape, one, temporary_bytes
from benchmarks.measure import ChildFailed, alone, say
from benchmarks.report import size
from benchmarks.work import Options, Result, Row, Table, Work

FULL, SHORT, TINY = Shape(), Shape(rows=2), Shape(2, 16, 8, 64)
ROUNDS, FULL_ROUNDS = 3, 1
"""At most: with all 8 rows a round takes three quarters of an hour."""
LIMIT = 600.0
TOLERANCE = 1e-4
APART = {("dpo", "TRL, chunked"): 3e-4}
"""What is off by more: in float64 the loss is 3.401856, jaxpo finds 3.401848 and TRL 3.402226 (two rows)."""
PRODUCTS = 1024, 16384
"""Rows and columns of the products that stand for the whole: 1 TFLOP each would take seconds."""

# Question -> contestants as (name in the table, kind in head_cases or None, why not).
ABSENT_CE = "its cross-entropy is a Triton kernel, which needs a GPU"
OTHER_KL = "its distillation reads the teacher's whole distribution, not a record of 32 tokens"
QUESTIONS: dict[str, tuple[tuple[str, str | None, str], ...]] = {
    "cross-entropy": (
        ("jaxpo", "jaxpo", ""),
        ("jaxpo, dense", "jaxpo, dense", ""),
        ("PyTorch, dense", "dense", ""),
        ("TRL, chunked", "trl", ""),
        ("Liger, fused", None, ABSENT_CE),
    ),
    "dpo": (
        ("jaxpo", "jaxpo", ""),
        ("jaxpo, dense", "jaxpo, dense", ""),
        ("PyTorch, dense", "dense", ""),
        ("TRL, chunked", "trl", ""),
        ("Liger, chunked", "liger", ""),
    ),
    "top-32": (
        ("jaxpo", "jaxpo", ""),
        ("jaxpo, dense", "jaxpo, dense", ""),
        ("TRL, chunked", None, OTHER_KL),
        ("Liger, chunked", None, OTHER_KL),
    ),
}
NEEDS = {"dense": "torch", "trl": "trl", "liger": "liger_kernel"}
TITLES = {"cross-entropy": "cross-entropy", "dpo": "DPO with its reference", "top-32": "top-32 distillation"}
# Products per token and entry of the matrix that cannot be avoided: forward and two gradients; the reference's forward.
NECESSARY = {"cross-entropy": 6.0, "dpo": 8.0, "top-32": 6.0}


def question(loss: str, shape: Shape, options: Options, flops: float) -> Table:
    """One loss by every contestant, each in a process of its own, all of them in turn.

    Raises:
      ValueError: jaxpo's own forms give different losses.
    """
    ceiling = flops / (NECESSARY[loss] * shape.width * shape.vocab)
    kinds, missing = contestants(loss, options)
    runs: dict[str, list[Any]] = {name: [] for name in kinds}
    rounds = options.at_most(FULL_ROUNDS if shape == FULL else ROUNDS).repeats
    for i in range(rounds):
        for name in list(kinds)[:: -1 if i % 2 else 1]:
            if name in missing:
                continue
            say(f"  {loss}: {name}, round {i + 1} of {rounds}")
            args = (loss, kinds[name], str(shape), str(options.threads))
            try:
                runs[name].append(one(*args) if options.smoke else in_own_process(args, options))
            except ChildFailed as error:
                missing[name] = str(error)
    missing |= apart(loss, {name: found[-1]["loss"] for name, found in runs.items() if found})
    rows = [
        Row(name, missing=missing[name]) if name in missing else _row(name, shape, runs[name], ceiling)
        for name, *_ in QUESTIONS[loss]
        if name in kinds or name in missing
    ]
    title = f"{TITLES[loss]}, [{shape.rows}, {shape.length:,}], d {shape.width:,}, V {shape.vocab:,}"
    return Table(title, "tokens", tuple(rows))


def contestants(loss: str, options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """`name -> kind` of those that run here, and `name -> why` of the others."""
    kinds, missing = {}, {}
    for name, kind, why in QUESTIONS[loss]:
        if not options.peers and not name.startswith("jaxpo"):
            continue
        if kind is None:
            missing[name] = why
        elif kind in NEEDS and not has(NEEDS[kind]):
            missing[name] = f"{NEEDS[kind]} is not installed"
        else:
            kinds[name] = kind
    return kinds, missing


def _row(name: str, shape: Shape, runs: list[Any], ceiling: float) -> Row:
    peaks = [run["peak"] for run in runs if run["peak"] is not None]
    wall, cpu = (tuple(run[of] for run in runs) for of in ("wall", "cpu"))
    return Row(name, shape.tokens, wall, cpu, max(peaks, default=None), ceiling)


def in_own_process(args: tuple[str, ...], options: Options) -> Any:
    """A contestant's figures, measured where nothing else has been allocated."""
    return alone("benchmarks.head_cases", "one", *args, timeout=LIMIT, threads=options.threads).result


def apart(loss: str, losses: dict[str, float]) -> dict[str, str]:
    """Peers that do not find jaxpo's loss, and what they find: their time says nothing.

    Raises:
      ValueError: jaxpo's own forms give different losses.
    """
    first = next(iter(losses), "")
    off = {name: abs(value - losses[first]) / max(abs(losses[first]), 1.0) for name, value in losses.items()}
    found = {
        name: f"it computes {losses[name]:.6f}, {first} {losses[first]:.6f}"
        for name, by in off.items()
        if not by <= APART.get((loss, name), TOLERANCE)
    }
    for name in found:
        if name.startswith("jaxpo"):
            raise ValueError(f"{loss}: {name}: {found[name]}")
    return found


def planned() -> str:
    """What XLA plans at the full shape, without running it."""
    found = []
    for loss in QUESTIONS:
        chunked, dense = (temporary_bytes(loss, FULL, chunk) for chunk in (None, FULL.length))
        found.append(f"{TITLES[loss]} {size(chunked)} (dense {size(dense)})")
    return f"Temporary memory of jaxpo's program at [{FULL.rows}, {FULL.length:,}], as compiled: {'; '.join(found)}."


def measure(options: Options) -> Result:
    """Tokens per second and memory of each loss."""
    shapes = (TINY,) if options.smoke else (SHORT, FULL) if options.full else (SHORT,)
    m, n = (16, 64) if options.smoke else PRODUCTS
    d = shapes[0].width
    products = best_products([(m, d, n), (m, n, d), (d, m, n)], peers=options.peers)
    flops = max(products.values())
    tables = tuple(question(loss, shape, options, flops) for shape in shapes for loss in QUESTIONS)
    notes = (
        "Each contestant alone in a process, its second run there. Peak memory: most resident at once beyond the "
        "inputs, the gradients of hidden states and matrix included.",
        "The ceiling counts no recomputation: forward and two gradients at the speed of the faster library's products.",
        *([] if options.smoke else [planned()]),
        *([] if options.smoke or options.full else ["`scripts/bench W5 --full` runs all 8 rows too."]),
    )
    return Result(tables, described(products), notes)


WORK = Work("W5", "the vocabulary head", "a constant's memory at dense speed, beside TRL's and Liger's forms", measure)
