"""W8: a layer of experts beside transformers' forms of it, every expert on every token, and a dense layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from benchmarks.ceilings import best_products, described, has
from benchmarks.expert_forms import Run, Shape, every_expert, grouped, one_dense, transformers
from benchmarks.measure import interleaved
from benchmarks.work import Options, Result, Row, Table, Work

JAXPO, DENSE = "jaxpo, grouped", "dense of the active width"
FORMS = ("eager", "grouped_mm")
TOLERANCE = 1e-4
# Backward multiplies twice as much as forward: once for the rows, once for the weights.
PASSES = {"forward": 1.0, "with gradients": 3.0}

Runs = dict[str, tuple[Run, Run]]


def contestants(shape: Shape, options: Options) -> tuple[Runs, list[Row]]:
    """All there are here, checked to agree with jaxpo's layer; and those that are not here.

    Raises:
      ValueError: one of them computes something else.
    """
    found = {JAXPO: grouped(shape), "every expert on every token": every_expert(shape), DENSE: one_dense(shape)}
    absent = []
    if options.peers and has("torch") and has("transformers"):
        found |= {f"transformers, {form}": transformers(shape, form, options.threads) for form in FORMS}
    elif options.peers:
        why = "torch and transformers are not installed"
        absent = [Row(f"transformers, {form}", missing=why) for form in FORMS]
    expected = np.asarray(found[JAXPO][0]())
    for name, (forward, _) in found.items():
        # The dense layer has no router: it costs what the others would if routing were free.
        if name != DENSE:
            worst = np.abs(np.asarray(forward()) - expected).max() / np.abs(expected).max()
            if not worst < TOLERANCE:
                raise ValueError(f"{name} computes something else than {JAXPO} (off by {worst:.1e})")
    return found, absent


def tables(
    title: str, runs: Mapping[str, tuple[Run, Run]], tokens: int, ceiling: float, options: Options
) -> Iterator[Table]:
    """One for forward, one with gradients; `ceiling` in tokens/s forward."""
    for i, (what, products) in enumerate(PASSES.items()):
        times = interleaved({name: pair[i] for name, pair in runs.items()}, options)
        rows = [Row(name, tokens, t.wall, t.cpu, ceiling=ceiling / products) for name, t in times.items()]
        yield Table(f"{title}, {what}", "tokens", tuple(rows))


def measure(options: Options) -> Result:
    """Tokens per second of the layer in every form, then of jaxpo's as the experts grow."""
    shape = Shape(32, 16, 12, 8, 2) if options.smoke else Shape()
    sizes = (4, 8) if options.smoke else (8, 16, 32, 64)
    rows = shape.tokens * shape.k
    products = best_products([(rows, shape.width, shape.inner), (rows, shape.inner, shape.width)], peers=options.peers)
    ceiling = max(products.values()) * shape.tokens / shape.flops()
    about = f"{shape.tokens:,} tokens of {shape.width}, {shape.experts} experts of {shape.inner}, top-{shape.k}"
    runs, absent = contestants(shape, options)
    compared = tables(about, runs, shape.tokens, ceiling, options)
    found = [replace(table, rows=(*table.rows, *absent)) for table in compared]
    # Few tokens leave each of many experts with few rows for a whole matrix: flatness is a matter of both.
    for tokens in (shape.tokens, 8 * shape.tokens):
        growing = {f"{e} experts": grouped(replace(shape, experts=e, tokens=tokens)) for e in sizes}
        found += tables(f"more experts, {tokens:,} tokens", growing, tokens, ceiling, options)
    notes = (
        "Float32. The ceiling: the products of the active experts at the speed of the faster library's plain ones, "
        "three times as many with gradients; routing, gathering and the activation are not in it.",
    )
    return Result(tuple(found), described(products), notes)


WORK = Work("W8", "a layer of experts", "at least equal to PyTorch's grouped product and transformers' form", measure)
