"""Tiny training steps, lowered from abstract values and compiled once for all guards."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
from contracts.batches import make_examples, packed

from jaxpo.config import LoRA, Optimizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.spec import abstract_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.lora import ADAPTER, BASE, with_lora
from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.train.init import abstract_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.step import make_step

DENSE = LFM2Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention"),
)
EXPERTS = dataclasses.replace(
    DENSE, layer_types=("full_attention",), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
    num_dense_layers=0,
)  # fmt: skip
ATTENTION = dataclasses.replace(DENSE, layer_types=("full_attention",))


@dataclasses.dataclass(frozen=True)
class Case:
    """What a step trains, and how."""

    config: LFM2Config = ATTENTION
    kind: str = "text"
    lora: bool = False
    microbatches: int = 1
    ema: float | None = None
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


CASES = {
    "dense": Case(DENSE),
    "average of two microbatches": Case(microbatches=2, ema=0.9),
    "adapter": Case(lora=True),
    "experts": Case(EXPERTS),
    "preference": Case(kind="pair"),
    "bfloat16 moments": Case(optimizer=Optimizer(moments="bfloat16")),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step: its text, its memory, and the abstract state that it is given."""

    text: str
    memory: Any
    state: Any

    @property
    def entry(self) -> list[str]:
        """The instructions that run once per step, in order."""
        return self.text[self.text.index("\nENTRY ") :].splitlines()[1:]


def step_of(case: Case) -> tuple[Any, Any, Any]:
    """`(step, abstract state, abstract frozen)` on one device."""
    scorer, table = Scorer(case.config), param_table(case.config)
    objective = next_token(scorer) if case.kind == "text" else METHODS["dpo"]().build(scorer)
    tables, frozen = {"model": table}, {}
    if case.kind == "pair":
        frozen = {"reference": abstract_params(table)}
    if case.lora:
        tables, frozen = {ADAPTER: adapter_table(table, LoRA(rank=4))}, {BASE: abstract_params(table)}
        objective = with_lora(objective, scale=scale_of(LoRA(rank=4)))
    schedule = make_schedule(case.optimizer, 10)
    optimizer = make_optimizer(case.optimizer, tables, schedule)
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    state = abstract_state(tables, optimizer, objective, mesh, average=case.ema is not None)
    step = make_step(objective, optimizer, schedule, microbatches=case.microbatches, ema_decay=case.ema)
    return step, state, frozen


@functools.cache
def program(name: str) -> Program:
    """The step of a case as it is compiled for a stage: state donated, shardings of the result given."""
    case = CASES[name]
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    with use_mesh(mesh):
        step, state, frozen = step_of(case)
        batch = jax.device_put(packed(make_examples(case.kind, 16, 0)), batch_sharding(mesh))
        shardings = jax.tree.map(lambda a: a.sharding, state)
        compiled = (
            jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, frozen, batch).compile()
        )
    return Program(compiled.as_text(), compiled.memory_analysis(), state)


def size(shape: str) -> int:
    """Entries of a shape as the compiler writes it, `f32[3,32]{1,0}`."""
    found = re.match(r"\w+\[([\d,]*)\]", shape)
    total = 1
    for n in found[1].split(",") if found and found[1] else ():
        total *= int(n)
    return total if found else 0
