"""The outcome of a dry run for a reader, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxpo.stages.dry_run import Plan
from jaxpo.stages.fitting_mesh import Fit
from jaxpo.train.chips import Chip
from jaxpo.train.memory import USABLE

NamedChip = tuple[str, Chip] | None


def size(value: float) -> str:
    """Bytes in the unit that a reader can compare."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= one:
            return f"{value / one:.2f} {unit}"
    return f"{value:.0f} B"


def shown_mesh(sizes: Mapping[str, int]) -> str:
    """`fsdp 4 x tensor 2`."""
    return " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1) or "one device"


def print_plan(plan: Plan, chip: NamedChip, fit: Fit | None) -> None:
    """Lines on one stage."""
    print("\n".join(lines(plan, chip, fit)), end="\n\n")


def lines(plan: Plan, chip: NamedChip, fit: Fit | None) -> Iterator[str]:
    held = plan.held
    yield f"stage {plan.stage} ({plan.kind}) on {plan.devices} devices: {shown_mesh(plan.mesh)}"
    yield (
        f"  {plan.parameters:,} trained parameters, products in {plan.dtype}, remat {plan.remat}, "
        f"{plan.rows} rows of {plan.row_length} tokens per step"
    )
    yield "  on each device, exactly:"
    parts = {
        **{"parameters": held.parameters, "optimiser": held.optimizer, "average": held.average},
        **{"method's state": held.carried, "networks beside": held.beside, "batch": held.batch},
    }
    yield from (f"    {name:<16} {size(value):>12}" for name, value in parts.items() if value)
    yield f"    {'together':<16} {size(held.total):>12}"
    if held.in_host:
        yield f"    {'in the host':<16} {size(held.in_host):>12}"
    yield "  temporary memory, as"
    if plan.estimate is not None:
        e = plan.estimate
        yield (
            f"    an estimate by formula         {size(e.temporary):>12}   (gradients {size(e.gradients)}, copies "
            f"{size(e.copies)}, activations {size(e.activations)}, head {size(e.head)})"
        )
    if plan.compiled is None:
        yield "    not compiled: no compiler's estimate, and no collectives"
    else:
        yield f"    {compiler(plan):<30} {size(plan.compiled.temporary):>12}"
    unknown = f", and {plan.work.unknown} loops of unknown length" if plan.work.unknown else ""
    yield f"  FLOPs per step     {plan.work.flops:.3e}, {plan.work.flops / plan.devices:.3e} per device{unknown}"
    yield from collective_lines(plan)
    yield from chip_lines(plan, chip, fit)


def compiler(plan: Plan) -> str:
    """Whose estimate it is."""
    assert plan.compiled is not None
    name = plan.compiled.compiler.upper()
    return f"{name}'s compiler estimates" if name == "CPU" else f"{name}'s compiler plans"


def collective_lines(plan: Plan) -> Iterator[str]:
    if plan.compiled is None:
        return
    found = plan.compiled.totals
    yield "  collectives of a step" if found else "  collectives of a step: none"
    for (kind, axes), total in found.items():
        yield (
            f"    {kind:<20} {' x '.join(axes):<18} {total.count:>6} of {size(total.bytes):>12}, the largest "
            f"{size(total.largest)}"
        )
    if any(one.unknown for one in plan.compiled.found):
        yield "    some stand in loops of unknown length, and are counted once"


def chip_lines(plan: Plan, chip: NamedChip, fit: Fit | None) -> Iterator[str]:
    if chip is None:
        return
    name, memory = chip[0], chip[1].memory
    for by, verdict in verdicts(plan, memory).items():
        says = "fits" if verdict["fits"] else "does not fit"
        yield f"  {name}: {says} by the {by}: {size(verdict['bytes'])} of {size(memory)} ({USABLE:.0%} of it are used)"
    if fit is None:
        yield "  no mesh that was tried is large enough, by the formula"
    else:
        yield (
            f"  the smallest mesh that fits, by the formula: {shown_mesh(fit.mesh)} ({fit.devices} devices, remat "
            f"{fit.remat}, {size(fit.bytes)} each)"
        )


def verdicts(plan: Plan, memory: float) -> dict[str, dict[str, Any]]:
    """Whose temporary memory -> bytes in all, and whether they fit."""
    totals: dict[str, float] = {}
    if plan.estimate is not None:
        totals["formula"] = plan.held.total + plan.estimate.temporary
    if plan.compiled is not None:
        totals["compiler"] = plan.held.total + plan.compiled.temporary
    return {by: {"bytes": total, "fits": total <= USABLE * memory} for by, total in totals.items()}


def as_json(plan: Plan, chip: NamedChip, fit: Fit | None) -> dict[str, Any]:
    """All numbers, of bytes without a unit."""
    compiled = plan.compiled
    found: dict[str, Any] = {
        **{name: getattr(plan, name) for name in ("stage", "kind", "devices", "dtype", "remat", "rows", "row_length")},
        "mesh": dict(plan.mesh),
        "parameters": plan.parameters,
        "per_device": dataclasses.asdict(plan.held) | {"total": plan.held.total},
        "temporary": {
            "formula": None if plan.estimate is None else dataclasses.asdict(plan.estimate),
            "compiler": None if compiled is None else {"name": compiled.compiler, "bytes": compiled.temporary},
        },
        "flops": {"step": plan.work.flops, "per_device": plan.work.flops / plan.devices, "unknown": plan.work.unknown},
        "collectives": None
        if compiled is None
        else [
            {"kind": kind, "axes": list(axes), **dataclasses.asdict(total)}
            for (kind, axes), total in compiled.totals.items()
        ],
    }
    if chip is not None:
        name, memory = chip[0], chip[1].memory
        smallest = None if fit is None else dataclasses.asdict(fit)
        found["chip"] = {"name": name, "memory": memory, **verdicts(plan, memory), "smallest_mesh": smallest}
    return found
