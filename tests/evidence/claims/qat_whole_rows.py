"""Training on the grid against rounding after it, where a row shares one scale and the learning rate falls to 0."""

from __future__ import annotations

import functools
from typing import Any

import jax
import optax
from evidence.claims._low_rank_language import RATE, STEPS, TEACHER, _loss, batches, held_out
from evidence.harness import Claim

from jaxpo.models.grids import rounded_model
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.wrappers.on_grid import with_grid
from jaxpo.ops.grids import grid
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

CLAIM = Claim(
    method="quantisation-aware training",
    paper="arXiv:1712.05877",
    claim="A network whose last third of the steps, under a learning rate that falls to 0, is trained on int4 weights "
    "with one scale per row loses less to rounding than one that is trained in float throughout and rounded after it.",
    baseline="the same steps in float, rounded to nearest after training",
    measure="held-out nats per token, the rounded baseline's minus the rounded method's",
    seeds=(5, 6, 7, 8, 9),
    threshold=0.002,
    min_share=0.8,
)
GRID, LAST = grid("int4", 0), STEPS // 3


@functools.cache
def stepper(rounded: bool) -> tuple[Any, Any, Any]:
    """Objective, optimiser and compiled step."""
    schedule = optax.linear_schedule(RATE, 0.0, LAST, STEPS - LAST)
    plain, optimizer = next_token(TEACHER), optax.adam(schedule)
    objective = with_grid(plain, TEACHER.config, GRID) if rounded else plain
    return objective, optimizer, jax.jit(make_step(objective, optimizer, schedule))


def measure(seed: int) -> dict[str, float]:
    objective, optimizer, plain = stepper(False)
    params = {"model": init_params(param_table(TEACHER.config), jax.random.key(seed))}
    state, texts = build_state(params, optimizer, objective, jax.random.key(seed)), batches(seed, STEPS)
    for batch in texts[:-LAST]:
        state, _ = plain(state, {}, batch)
    ends = {}
    for name, step in (("baseline", plain), ("method", stepper(True)[2])):
        end = state
        for batch in texts[-LAST:]:
            end, _ = step(end, {}, batch)
        ends[name] = end.params["model"]
    loss = {name: float(_loss(TEACHER, rounded_model(x, TEACHER.config, GRID), held_out())) for name, x in ends.items()}
    return loss | {
        "effect": loss["baseline"] - loss["method"],
        "float": float(_loss(TEACHER, ends["baseline"], held_out())),
    }
