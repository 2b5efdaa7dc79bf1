"""One step of every kind of stage on any mesh: the same example of a batch, parameters and networks beside."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from contracts.kinds import EXAMPLES

from jaxpo.config import LoRA, Online, Optimizer, Retrieval, Run
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.sharding.collectives import Collective, collectives
from jaxpo.stages.abstract_batch import stage_batch
from jaxpo.stages.abstract_beside import abstract_beside
from jaxpo.stages.abstract_step import AbstractStep, abstract_step
from jaxpo.stages.assemble import make_scorer

DENSE = LFM2Config(
    vocab_size=384,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.2,
)
EXPERTS = dataclasses.replace(DENSE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, num_dense_layers=1)
MESHES: dict[str, dict[str, int]] = {
    "fsdp 8": {"fsdp": 8},
    "fsdp 4 x tensor 2": {"fsdp": 4, "tensor": 2},
    "sequence 2 x fsdp 4": {"sequence": 2, "fsdp": 4},
    "expert 4 x fsdp 2": {"expert": 4, "fsdp": 2},
    "replica 2 x fsdp 4": {"replica": 2, "fsdp": 4},
}
# Plain descent: Adam would turn the rounding of near-zero gradients into steps.
ROWS, LENGTH, SLOTS = 8, 32, 2
DATA: dict[str, Any] = {"max_length": LENGTH // SLOTS, "row_length": LENGTH, "block_rows": None}
# What Adam's first moment holds after one step is the gradient times 0.1, as nothing is clipped.
OPTIMIZER = Optimizer(learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9)


def examples() -> dict[str, Any]:
    """Name -> stage: of every kind that trains, and adapters beside a reference that runs in every step."""
    found = {}
    for kind, example in EXAMPLES.items():
        stage = example(Path("nowhere"))
        if stage.TRAINS:
            data = dataclasses.replace(stage.data, **DATA)
            if kind is Online:  # of log-probs that no sampler gave, the correction would leave nothing
                stage = dataclasses.replace(stage, loss=METHODS["grpo"](importance_sampling_correction="none"))
            # A query and its documents take a block of four rows; every device is to have one.
            rows = 4 * ROWS if kind is Retrieval else ROWS
            found[kind.__name__] = dataclasses.replace(stage, data=data, rows_per_step=rows, optimizer=OPTIMIZER)
    found["Online, PPO"] = dataclasses.replace(
        found["Online"], loss=METHODS["ppo"](importance_sampling_correction="none"), name="critic"
    )
    online = {"precompute_ref_log_probs": False, "name": "compared_online"}
    found["Preference, reference online"] = dataclasses.replace(found["Preference"], **online)
    found["Preference, adapters"] = dataclasses.replace(found["Preference, reference online"], lora=LoRA(rank=4))
    return found


STAGES = examples()


def recipe(model: LFM2Config) -> Run:
    """All of them, as stages of one run: a teacher is the stage of that name."""
    return Run(model=model, stages=tuple(STAGES.values()))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One step.

    Attributes:
      metrics: loss and norm of the gradient among them.
      moments: path -> values, of the optimiser's state and what the method carries.
      found: collectives of the compiled program.
      held: bytes of the state and of the networks beside it that lie on the first device.
    """

    metrics: dict[str, float]
    moments: dict[str, np.ndarray]
    found: tuple[Collective, ...]
    held: int
    step: AbstractStep


@functools.cache
def outcome(name: str, mesh_name: str, experts: bool) -> Outcome:
    """A step of a stage on a mesh; "" is one device."""
    model, stage = EXPERTS if experts else DENSE, STAGES[name]
    run = recipe(model)
    sizes = MESHES.get(mesh_name, {"fsdp": 1})
    mesh = make_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
    scorer = make_scorer(model, run.compute)
    beside = abstract_beside(run, stage, scorer, mesh, {})
    batch = stage_batch(stage, model, make_mesh({"fsdp": 1}, jax.devices()[:1]))
    with use_mesh(mesh):
        step = abstract_step(stage, model, run.compute, mesh, {}, batch, beside.frozen, beside.scorers)
        program = step.lower().compile()
        state, frozen = drawn(step.state, 0), drawn(step.frozen, 1)
        held = sum(
            shard.data.nbytes
            for x in jax.tree.leaves((state, frozen))
            for shard in x.addressable_shards
            if shard.device == mesh.devices.flat[0]
        )
        placed = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding), filled(batch, model.vocab_size), step.batch
        )
        state, metrics = program(state, frozen, placed)
    return Outcome(
        {name: float(m.value()) for name, m in metrics.items()},
        {
            jax.tree_util.keystr(path): np.asarray(x)
            for path, x in jax.tree_util.tree_flatten_with_path((state.opt_state, state.carry))[0]
        },
        tuple(collectives(program.as_text(), mesh.shape)),
        held,
        step,
    )


def drawn(tree: Any, seed: int) -> Any:
    """Small random numbers where shapes are: the same on every mesh. Moments and counters start at zero."""

    def draw(path: Any, x: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(seed), x.sharding)
        values = np.zeros(x.shape, x.dtype)
        if "params" in name or seed:
            rng = np.random.default_rng(zlib.crc32(name.encode()) + seed)
            values = (rng.normal(size=x.shape) * 0.2 + ("norm" in name)).astype(x.dtype)
        return jax.device_put(values, x.sharding)

    return jax.tree_util.tree_map_with_path(draw, tree)


def filled(shapes: Any, vocabulary: int) -> Any:
    """A batch of these shapes: rows full of segments, and examples made of as many of them as they have roles."""
    rng = np.random.default_rng(7)
    rows, length = shapes.tokens.shape
    each = length // shapes.slots
    prompt = min(4, each // 2)
    segment = np.arange(length) // each
    positions = np.broadcast_to(np.arange(length) % each, (rows, length)).astype(np.int32)
    per_block = shapes.block_rows * shapes.slots
    examples = shapes.example_id.shape[0] // shapes.blocks
    widths = {role: x.shape[1] if len(x.shape) > 1 else 1 for role, x in shapes.roles.items()}
    needed = sum(widths.values())
    roles = {role: np.full(x.shape, -1, np.int32) for role, x in shapes.roles.items()}
    number = np.full(shapes.example_id.shape, -1, np.int32)
    for n in range(len(number)):
        first = (n % examples) * needed
        if first + needed > per_block:
            continue
        number[n] = n
        for role, width in widths.items():
            roles[role][n] = np.arange(first, first + width) if roles[role].ndim > 1 else first
            first += width
    draw = {
        "b": lambda shape: rng.random(shape) < 0.5,
        "i": lambda shape: rng.integers(0, 3, shape),
        "u": lambda shape: np.broadcast_to(np.arange(shape[-1]), shape),  # a teacher's likeliest tokens
    }

    def values(x: Any) -> np.ndarray:
        # Of log-probabilities few enough to leave the other tokens something.
        make = draw.get(np.dtype(x.dtype).kind, lambda shape: -2.5 - rng.random(shape))
        return np.asarray(make(x.shape)).astype(x.dtype)

    return dataclasses.replace(
        shapes,
        tokens=rng.integers(3, vocabulary, (rows, length)).astype(np.int32),
        segment_ids=np.broadcast_to(segment + 1, (rows, length)).astype(np.int32),
        positions=positions,
        masks={"completion": positions >= prompt, "prompt": (positions > 0) & (positions < prompt)},
        per_token={name: values(x) for name, x in shapes.per_token.items()},
        per_example={name: values(x) for name, x in shapes.per_example.items()},
        roles=roles,
        example_id=number,
    )
