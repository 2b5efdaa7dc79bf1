"""What a stage's step needs of every device, and what the devices send one another: compiled, and never run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpo.config import Compute, Run
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family
from jaxpo.recipe.platform import dtype_of, loops
from jaxpo.sharding import use_mesh
from jaxpo.sharding.collectives import Collective, Total, collectives, totals
from jaxpo.sharding.host_memory import HOST
from jaxpo.stages.abstract_batch import patches_per_row, stage_batch
from jaxpo.stages.abstract_beside import abstract_beside, architecture
from jaxpo.stages.abstract_step import AbstractStep, abstract_step
from jaxpo.stages.assemble import make_scorer
from jaxpo.stages.remat import load_of, tower_of
from jaxpo.train.jaxpr_flops import Work, work_of
from jaxpo.train.memory import CANDIDATES, Estimate, Load, bytes_of, choose, estimate

Tree = Any
LEFT_OUT = ("attention", "experts", "conv")


@dataclass(frozen=True)
class Held:
    """Bytes that lie on one device from step to step, exactly: of the shapes and their shardings.

    Attributes:
      parameters: what is trained.
      optimizer: its moments, as far as they are in the device's memory.
      average: the moving average.
      carried: what the method carries, such as a reference that follows.
      beside: networks that are not trained.
      batch: the rows of one step.
      in_host: what of all this lies in the memory of the host instead.
    """

    parameters: int
    optimizer: int
    average: int
    carried: int
    beside: int
    batch: int
    in_host: int = 0

    @property
    def total(self) -> int:
        """On the device."""
        return self.parameters + self.optimizer + self.average + self.carried + self.beside + self.batch


@dataclass(frozen=True)
class Compiled:
    """What a compiler made of the step, per device.

    Attributes:
      compiler: platform that it compiled for.
      temporary: bytes that it wants beside what is held.
      arguments: bytes of what the step is given, as the compiler counts them.
    """

    compiler: str
    temporary: int
    arguments: int
    found: tuple[Collective, ...]

    @property
    def totals(self) -> dict[tuple[str, tuple[str, ...]], Total]:
        """(kind, mesh axes) -> how many collectives a step has, and what they carry."""
        return totals(self.found)


@dataclass(frozen=True)
class Plan:
    """A stage on a mesh.

    Attributes:
      work: of one step over all devices.
      estimate: of the step's memory, see `jaxpo.train.memory`; None where the family does not say what it keeps.
      compiled: None where the step was only lowered.
    """

    stage: str
    kind: str
    mesh: Mapping[str, int]
    dtype: str
    remat: str
    rows: int
    row_length: int
    parameters: int
    held: Held
    work: Work
    estimate: Estimate | None
    compiled: Compiled | None

    @property
    def devices(self) -> int:
        """Of the mesh."""
        return int(np.prod(list(self.mesh.values())))


def plan(run: Run, stage: Any, mesh: Mesh, *, memory: float | None = None, compile_it: bool = True) -> Plan:
    """Lower, and compile, the step of a trained stage for a mesh; allocates none of its arrays.

    Args:
      mesh: of simulated devices, or of a described topology.
      memory: bytes of a device, for `compute.remat auto`.

    Raises:
      ConfigError: the mesh and the stage do not go together; or remat is "auto" and no memory is known.
    """
    config, rules = architecture(run, stage), dict(run.mesh.rules)
    step, load = stage_step(run, stage, config, mesh, memory)
    with use_mesh(mesh, rules):
        traced = step.trace()
        lowered = traced.lower()
        compiled = _compiled(lowered.compile(), mesh) if compile_it else None
    scorer = make_scorer(config, as_on_accelerator(run.compute, config, step.remat))
    return Plan(
        stage=stage.name,
        kind=type(stage).__name__,
        mesh=dict(mesh.shape),
        dtype=scorer.dtype,
        remat=step.remat,
        rows=stage.rows_per_step,
        row_length=stage.data.row_length,
        parameters=sum(int(np.prod(x.shape)) for x in jax.tree.leaves(step.state.params)),
        held=held(step),
        work=work_of(traced.jaxpr),
        estimate=on_accelerator(run, config, load, step.remat, mesh),
        compiled=compiled,
    )


def stage_step(run: Run, stage: Any, config: TextConfig, mesh: Mesh, memory: float | None) -> tuple[AbstractStep, Load]:
    """The step from shapes, with the policy of recomputation that it would have on accelerators, and its load."""
    remat = run.compute.remat
    compute = as_on_accelerator(run.compute, config, "none" if remat == "auto" else remat)
    step = _step(run, stage, config, mesh, compute)
    tower = tower_of(stage, config, step.assembly)
    load = load_of(stage, step.assembly, step.frozen, mesh, patches=patches_per_row(step.batch), tower=tower)
    if remat == "auto":
        found = {name: on_accelerator(run, config, load, name, mesh) for name in CANDIDATES if name != "offload"}
        memory = memory if run.compute.memory_gib is None else run.compute.memory_gib * 2**30
        if memory is None:
            raise ConfigError(
                "compute.remat auto: chooses by the memory of a device; give --chip NAME, --compute.memory-gib, or a "
                "policy by name."
            )
        chosen = choose({name: e for name, e in found.items() if e is not None}, memory)
        step = _step(run, stage, config, mesh, as_on_accelerator(run.compute, config, chosen))
    return step, load


def _step(run: Run, stage: Any, config: TextConfig, mesh: Mesh, compute: Compute) -> AbstractStep:
    rules = dict(run.mesh.rules)
    beside = abstract_beside(run, stage, make_scorer(config, compute), mesh, rules)
    batch = stage_batch(stage, config, mesh)
    return abstract_step(stage, config, compute, mesh, rules, batch, beside.frozen, beside.scorers)


def as_on_accelerator(compute: Compute, config: TextConfig, remat: str) -> Compute:
    """What an accelerator would compute, in implementations that every compiler has.

    Layers run in loops wherever something is recomputed: the compiler for CPU saves memory there in loops alone.
    """
    scan = compute.scan
    if scan is None:
        scan = remat != "none" or loops(remat, "tpu", depth(config))
    fixed: dict[str, Any] = {"dtype": dtype_of(compute, "tpu"), "remat": remat, "scan": scan, "memory_gib": None}
    return dataclasses.replace(compute, **fixed | dict.fromkeys(LEFT_OUT))


def depth(config: Any) -> int:
    """Layers that may run in loops; none of a model that denoises."""
    return getattr(config, "num_hidden_layers", 0)


def held(step: AbstractStep) -> Held:
    """What a step's arguments take of one device."""
    state = step.state

    def here(tree: Tree) -> int:
        return int(sum(bytes_of(x) for x in jax.tree.leaves(tree) if not _in_host(x)))

    whole = (state, step.frozen)
    return Held(
        parameters=here(state.params),
        optimizer=here(state.opt_state),
        average=here(state.ema),
        carried=here((state.carry, state.step, state.rows_seen, state.rng)),
        beside=here(step.frozen),
        batch=here(step.batch),
        in_host=int(sum(bytes_of(x) for x in jax.tree.leaves(whole) if _in_host(x))),
    )


def _in_host(x: Any) -> bool:
    return getattr(x.sharding, "memory_kind", None) == HOST


def on_accelerator(run: Run, config: TextConfig, load: Load, remat: str, mesh: Mesh) -> Estimate | None:
    """The memory of a step, estimated as of an accelerator: there recomputation saves it without loops too."""
    if family(config).kept is None:
        return None
    compute = as_on_accelerator(run.compute, config, remat)
    itemsize = np.dtype(jax.numpy.dtype(str(compute.dtype))).itemsize
    scan = run.compute.scan
    looped = bool(loops(remat, "tpu", depth(config)) if scan is None else scan)
    spread = {axis: mesh.shape[axis] for axis in ("tensor", "sequence")}
    return estimate(config, load, remat, itemsize=itemsize, looped=looped, **spread)


def _compiled(program: Any, mesh: Mesh) -> Compiled:
    memory = program.memory_analysis()
    return Compiled(
        compiler=mesh.devices.flat[0].platform,
        temporary=int(memory.temp_size_in_bytes),
        arguments=int(memory.argument_size_in_bytes),
        found=tuple(collectives(program.as_text(), mesh.shape)),
    )
