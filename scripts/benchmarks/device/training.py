"""Training steps on the device: next tokens and DPO, through the package's own step, objective and optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device.shapes import (
    Size,
    attended,
    flops_per_token,
    is_out_of_memory,
    packed,
    peak_bytes,
    seconds,
    size_of,
)
from jaxpo.config import Optimizer
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import make_mesh, put_batch, replicated
from jaxpo.train.chips import peak_flops
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.measured_peak import measured_peak
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.step import make_step

OPTIMIZER = Optimizer(lr_scheduler_type="constant")
FORMULA = "MFU = tokens/s x 3 (2 N + M) / peak: N entries of the matrices a token meets, M attention's operations"


def step_of(size: Size, objective: Any, rows: int, frozen: dict[str, Any], roles: tuple[str, ...]) -> Any:
    """`run() -> metrics` of one step after another, on a batch that stays on the device."""
    mesh = make_mesh({}, jax.devices()[:1])
    tables = {"model": param_table(size.config)}
    schedule = make_schedule(OPTIMIZER, 1_000_000)
    optimizer = make_optimizer(OPTIMIZER, tables, schedule)
    abstract = abstract_state(tables, optimizer, objective, mesh, {})
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    step = jax.jit(
        make_step(objective, optimizer, schedule, microbatches=1),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    params = {"model": init_params(tables["model"], jax.random.key(0))}
    state = init_state(abstract, params, optimizer, objective, 0)
    del params
    batch = put_batch(packed(size, rows, roles), mesh)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return metrics["loss"].value()

    return run


def trained(size: Size, scorer: Scorer, objective: Any, *, dpo: bool = False, passes: float = 1.0) -> dict[str, Any]:
    """Tokens per second, MFU and memory of a step, at the most rows that fit.

    Args:
      passes: operations of a step over those of the formula (a reference's forward adds a third).
    """
    skipped = []
    for rows in size.rows:
        frozen = {}
        if dpo:
            frozen["reference"] = init_params(param_table(size.config), jax.random.key(1), jnp.dtype(size.dtype))
        run: Any = None
        try:
            run = step_of(size, objective, rows, frozen, ("chosen", "rejected") if dpo else ("text",))
            took = seconds(run)
            loss = float(run())
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            skipped.append(rows)
            run = None  # which held the state
            continue
        rate = rows * size.length / median(took)
        peaks = {
            "datasheet": peak_flops(jax.devices()[0].device_kind, size.dtype),
            "measured": measured_peak(size.dtype),
        }
        tflops = rate * flops_per_token(size) * passes
        return {
            "rows": rows,
            "did_not_fit": skipped,
            "seconds": took,
            "tokens_per_second": rate,
            "tflops": tflops / 1e12,
            "mfu": {name: tflops / peak for name, peak in peaks.items() if peak},
            "peak_bytes": peak_bytes(),
            "loss": loss,
            "attended": attended(size),
            "formula": FORMULA,
        }
    return {"error": f"no memory for {size.rows[-1]} row of {size.length}"}


def next_tokens(preset: str, tiny: bool, *, scan: bool = True, attention: str | None = None) -> dict[str, Any]:
    """Next-token training of a released shape on packed rows."""
    size = size_of(preset, tiny=tiny)
    scorer = Scorer(size.config, size.dtype, attention=attention, scan=scan)
    return trained(size, scorer, next_token(scorer))


def big(tiny: bool) -> Iterator[dict[str, Any]]:
    """1.2B, the best backend, layers in a loop."""
    yield {"name": "jaxpo, 1.2B, scanned", **next_tokens("lfm2_1_2b", tiny)}


def small(tiny: bool) -> Iterator[dict[str, Any]]:
    """350M."""
    yield {"name": "jaxpo, 350M, scanned", **next_tokens("lfm2_350m", tiny)}


def unrolled(tiny: bool) -> Iterator[dict[str, Any]]:
    """350M without the loop over layers."""
    yield {"name": "jaxpo, 350M, unrolled", **next_tokens("lfm2_350m", tiny, scan=False)}


def other_backends(tiny: bool) -> Iterator[dict[str, Any]]:
    """350M with each attention backend by name."""
    from jaxpo.errors import BackendError
    from jaxpo.ops.attention import available

    for name in available():
        try:
            yield {"name": f"jaxpo, 350M, attention {name}", **next_tokens("lfm2_350m", tiny, attention=name)}
        except BackendError as refusal:
            yield {"name": f"jaxpo, 350M, attention {name}", "refused": str(refusal).splitlines()[0]}


def dpo(tiny: bool) -> Iterator[dict[str, Any]]:
    """DPO of 350M with the reference in every step."""
    size = size_of("lfm2_350m", tiny=tiny)
    scorer = Scorer(size.config, size.dtype, scan=True)
    objective = METHODS["dpo"]().build(scorer)
    note = "tokens of whole rows, of which two documents are a pair; operations with the reference's forward"
    yield {
        "name": "jaxpo, 350M, DPO, reference online",
        "note": note,
        **trained(size, scorer, objective, dpo=True, passes=4 / 3),
    }
