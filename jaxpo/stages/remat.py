"""How a stage's layers are run: `compute.remat auto`, by an estimate of its step's memory, and loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpo.config import Compute, Stage
from jaxpo.data.source import Source
from jaxpo.models.family import Config, family
from jaxpo.models.parts import Tower
from jaxpo.models.spec import leaves
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.options import Ids
from jaxpo.objectives.wrappers.lora import ADAPTER
from jaxpo.sharding import BATCH_AXES, axis_size
from jaxpo.sharding.host_memory import has_host_memory
from jaxpo.sharding.turns import least_of_all
from jaxpo.stages.assemble import Assembly, assemble
from jaxpo.stages.features import keeps_features
from jaxpo.train.memory import CANDIDATES, Estimate, Load, bytes_of, choose, device_memory, estimate, gib, numbers_of

Tree = Any
REMAT = "remat"


def load_of(
    stage: Stage, assembly: Assembly, frozen: Tree, mesh: Mesh, *, patches: float = 0.0, tower: Tower = "trained"
) -> Load:
    """What of a stage's step lies on one device.

    Args:
      patches: of media beside a row of tokens, padding included.
      tower: see `tower_of`.
    """
    spread = axis_size(mesh, BATCH_AXES)
    rows = max(stage.rows_per_step // (spread * stage.gradient_accumulation_steps), 1)
    params = assembly.abstract.params
    network = params.get("model") or frozen
    return Load(
        state=bytes_of(assembly.abstract),
        frozen=bytes_of(frozen),
        trained=bytes_of(params),
        weights=numbers_of(network),
        tokens=rows * stage.data.row_length / mesh.shape["sequence"],
        microbatches=stage.gradient_accumulation_steps,
        patches=rows * patches,
        tower=tower,
    )


def tower_of(stage: Stage, config: Config, assembly: Assembly) -> Tower:
    """What becomes of the encoder of media in a stage."""
    encoder = family(config).encoder
    if encoder is None:
        return "trained"
    own = (assembly.trained.get(group, {}) for group in ("model", ADAPTER))
    if any(encoder.holds(path) for table in own for path, _ in leaves(table)):
        return "trained"
    return "recorded" if keeps_features(stage) else "fixed"


def estimates(scorer: Scorer, load: Load, mesh: Mesh) -> Mapping[str, Estimate]:
    """Policy -> memory of the step; on CPU a policy saves nothing of layers one by one (see `saves`)."""
    itemsize = np.dtype(jax.numpy.dtype(scorer.dtype)).itemsize
    found = {}
    spread = {axis: mesh.shape[axis] for axis in ("tensor", "sequence")}
    for name in CANDIDATES:
        so = dataclasses.replace(scorer, remat=name)
        how = {"itemsize": itemsize, "looped": in_program(so) < layers_of(so), **spread}
        found[name] = estimate(scorer.config, load, name if saves(so) else "none", **how)
    return found


def layers_of(scorer: Scorer) -> int:
    """How deep the model is."""
    depth: int = scorer.config.num_hidden_layers
    return depth


def in_program(scorer: Scorer) -> int:
    """Layers that the program holds, fewer than the model has where some run in loops."""
    count = family(scorer.config).looped
    return layers_of(scorer) if count is None else count(scorer.config, scorer.scan, scorer.remat)


def saves(scorer: Scorer) -> bool:
    """Whether recomputation saves memory here: on CPU only in loops, as XLA brings it forward into the forward pass."""
    return jax.default_backend() != "cpu" or in_program(scorer) < layers_of(scorer)


def loop_lines(scorer: Scorer) -> list[str]:
    """What a stage says of layers that run in loops, or of recomputation that saves nothing because none do."""
    held, layers = in_program(scorer), layers_of(scorer)
    if held < layers:
        chosen = "by compute.remat" if jax.default_backend() == "cpu" else "by depth"
        why = "compute.scan" if scorer.scan else f"chosen {chosen}; compute.scan False runs them one by one"
        return [f"layers: {layers}, of which the program holds {held} and repeats the others in loops ({why})"]
    if scorer.remat == "none" or saves(scorer):
        return []
    return [f"compute.remat {scorer.remat}: costs time and saves no memory on CPU, as the layers are in no loop"]


def assemble_fitted(
    stage: Stage,
    source: Source,
    scorer: Scorer,
    mesh: Mesh,
    rules: Mapping[str, Any],
    compute: Compute,
    *,
    frozen: Tree,
    scorers: Mapping[str, Scorer] | None = None,
    before: str | None = None,
    groups: tuple[str, ...] = (),
    ids: Ids | None = None,
    patches: float = 0.0,
) -> tuple[Assembly, Scorer, list[str]]:
    """A stage ready to run, the scorer that it runs by, and what is said of it: under "auto" with the policy that fits.

    Args:
      frozen: the networks beside the trained one, or their shapes.
      scorers, groups, ids: see `stages.assemble.assemble`.
      before: see `fitted`.
      patches: see `load_of`.

    Raises:
      ConfigError: no policy fits.
    """
    assembly = assemble(stage, source, scorer, mesh, rules, scorers, groups, ids)
    if compute.remat != "auto":
        return assembly, scorer, []
    # What the step must hold is known from its state; then it is made anew.
    load = load_of(stage, assembly, frozen, mesh, patches=patches, tower=tower_of(stage, scorer.config, assembly))
    scorer, said = fitted(scorer, compute, load, mesh, before)
    return assemble(stage, source, scorer, mesh, rules, scorers, groups, ids), scorer, said


def fitted(
    scorer: Scorer, compute: Compute, load: Load, mesh: Mesh, before: str | None = None
) -> tuple[Scorer, list[str]]:
    """The scorer with the policy that fits, and what is said of it.

    Args:
      before: the policy of the checkpoint that the stage goes on from.

    Raises:
      ConfigError: no policy fits.
    """
    # Every process must compile the same step: what fits the device that has least.
    available = least_of_all(device_memory()) if compute.memory_gib is None else compute.memory_gib * 2**30
    found = {name: e for name, e in estimates(scorer, load, mesh).items() if name != "offload" or has_host_memory()}
    choice = choose(found, available, before)
    now = found[choice]
    line = (
        f"compute.remat auto: {choice!r}; estimated {gib(now.total)} of {gib(available)} per device: state "
        f"{gib(now.state)}, other networks {gib(now.frozen)}, gradients {gib(now.gradients)}, copies "
        f"{gib(now.copies)}, activations {gib(now.activations)}, head {gib(now.head)}"
    )
    return dataclasses.replace(scorer, remat=choice), [line]
