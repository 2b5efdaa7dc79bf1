"""W7: how long a training step takes to be traced, lowered and compiled, from shapes alone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import ChildFailed, Parts, alone
from benchmarks.work import Options, Result, Row, Table, Work

MODULE = "benchmarks.compile_times"
TIMEOUT = 900.0


@dataclass(frozen=True)
class Case:
    """A step.

    Attributes:
      compiled: whether it is compiled too, or lowered alone.
    """

    model: str
    rows: int
    length: int
    remat: str = "none"
    compiled: bool = True


SMOKE = (Case("nano", 2, 64),)
FULL = (
    Case("lfm2_350m", 8, 2048),
    Case("lfm2_1_2b", 8, 2048),
    Case("lfm2_1_2b", 8, 2048, remat="full"),
    Case("lfm2_24b_a2b", 8, 2048, remat="full", compiled=False),
)


def one(model: str, rows: str, length: str, remat: str, scan: str, compiled: str, cache: str) -> dict[str, Any]:
    """Seconds `{part: [elapsed, of the processor]}` of one step in this process, and the size of its program."""
    import jax

    from jaxpo.config import Compute, Data, Pretrain
    from jaxpo.models.family import preset
    from jaxpo.sharding import make_mesh, use_mesh
    from jaxpo.stages.abstract_step import abstract_step, text_batch

    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    stage = Pretrain(rows_per_step=int(rows), data=Data(train=("none.jsonl",), row_length=int(length)), max_steps=1000)
    mesh, compute = make_mesh({}, jax.devices()[:1]), Compute(remat=remat, scan=scan == "scanned")  # type: ignore[arg-type]
    parts, sizes = Parts(), {}
    with use_mesh(mesh):
        step = abstract_step(stage, preset(model), compute, mesh, {}, text_batch(stage))
        traced = parts.timed("trace", lambda: step.step.trace(step.state, step.frozen, step.batch))
        lowered = parts.timed("lower", traced.lower)
        sizes["lowered_bytes"] = len(lowered.as_text())
        if compiled == "True":
            program = parts.timed("compile", lowered.compile)
            memory = program.memory_analysis()
            sizes["compiled_bytes"] = len(program.as_text())
            sizes["code_bytes"] = memory.generated_code_size_in_bytes
            sizes["temporary_bytes"] = memory.temp_size_in_bytes
    return {**parts, **sizes}


def measure(options: Options) -> Result:
    """Every case unrolled and scanned, with an empty cache and with the one that this left."""
    tables, notes = [], []
    for case in SMOKE if options.smoke else FULL:
        rows = []
        for form in ("unrolled", "scanned"):
            found, said = _of(case, form, options)
            rows += found
            notes += said
        what = "trace, lower and compile" if case.compiled else "trace and lower"
        title = f"{what} a step of {case.model}, {case.rows} x {case.length}, remat {case.remat}"
        tables.append(Table(title, "step", tuple(rows)))
    return Result(tuple(tables), notes=tuple(notes))


def _of(case: Case, form: str, options: Options) -> tuple[list[Row], list[str]]:
    caches = ("cold", "warm") if case.compiled else ("cold",)
    runs: dict[str, list[dict[str, Any]]] = {cache: [] for cache in caches}
    name = lambda cache: f"{form}, {cache} cache" if case.compiled else form  # noqa: E731
    for _ in range(1 if options.smoke else max(options.repeats // 2, 1)):
        with tempfile.TemporaryDirectory() as folder:
            for cache in caches:
                given = (case.model, case.rows, case.length, case.remat, form, case.compiled, folder)
                try:
                    said = alone(MODULE, "one", *map(str, given), timeout=TIMEOUT, threads=options.threads)
                except ChildFailed as failed:
                    return [Row(name(cache), missing=str(failed))], []
                runs[cache].append(said.result)
    rows = [Row(name(cache), 1.0, *_seconds(found)) for cache, found in runs.items()]
    return rows, [_note(case, form, runs["cold"][0])]


def _seconds(runs: list[dict[str, Any]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    parts = [[run[part] for part in ("trace", "lower", "compile") if part in run] for run in runs]
    return tuple(sum(p[0] for p in run) for run in parts), tuple(sum(p[1] for p in run) for run in parts)


def _note(case: Case, form: str, found: dict[str, Any]) -> str:
    parts = ", ".join(f"{part} {found[part][0]:.1f} s" for part in ("trace", "lower", "compile") if part in found)
    sizes = {"lowered": "lowered_bytes", "compiled": "compiled_bytes", "machine code": "code_bytes"}
    size = ", ".join(f"{name} {found[key] / 1e6:.1f} MB" for name, key in sizes.items() if found.get(key))
    temporary = f"; temporaries {found['temporary_bytes'] / 2**30:.1f} GiB" if "temporary_bytes" in found else ""
    return f"{case.model}, remat {case.remat}, {form}: {parts}; as text {size}{temporary}"


WORK = Work(
    "W7",
    "From shapes to a compiled step",
    "1.2B traced, lowered and compiled in under 60 s with an empty cache; 24B-A2B lowered in under 5 minutes",
    measure,
)
