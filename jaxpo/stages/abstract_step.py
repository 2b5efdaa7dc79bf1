"""The training step of a stage and the shapes of what it takes: for whoever lowers or compiles it without data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxpo.config import Compute, Stage
from jaxpo.data.packing.batch import Batch
from jaxpo.data.source import StepBatch
from jaxpo.models.family import TextConfig
from jaxpo.objectives.encode import Scorer
from jaxpo.sharding import batch_shardings
from jaxpo.stages.abstract_batch import patches_per_row
from jaxpo.stages.assemble import Assembly, make_scorer
from jaxpo.stages.remat import assemble_fitted
from jaxpo.train.state import State

Tree = Any
STEPS = 1000
"""Length of the schedule where the stage's own depends on its data; the program is the same for any."""


@dataclass(frozen=True)
class AbstractStep:
    """A step that can be lowered: `step.step.lower(step.state, step.frozen, step.batch)`, under the stage's mesh.

    Attributes:
      step: jitted; donates the state.
      state, frozen, batch: shapes, types and shardings of its arguments.
    """

    step: Any
    state: State
    frozen: Tree
    batch: StepBatch
    assembly: Assembly
    remat: str

    def trace(self) -> Any:
        """The step as a program of JAX, which can be lowered; nothing has been allocated."""
        return self.step.trace(self.state, self.frozen, self.batch)

    def lower(self) -> Any:
        """The step before the compiler; nothing has been allocated."""
        return self.trace().lower()


class _Length:
    """A source that knows how long a stage is, and no more."""

    hash = ""

    def total_steps(self, stage: Stage) -> int:
        return stage.max_steps or STEPS

    def epoch_of(self, rows_seen: int) -> float:
        raise NotImplementedError("a step from shapes has no data")

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        raise NotImplementedError("a step from shapes has no data")

    def open(self, rows_seen: int, steps: int) -> Any:
        raise NotImplementedError("a step from shapes has no data")


def abstract_step(
    stage: Stage,
    config: TextConfig,
    compute: Compute,
    mesh: Mesh,
    rules: Mapping[str, Any],
    batch: StepBatch,
    frozen: Tree | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> AbstractStep:
    """What `jaxpo run` compiles for a stage, from shapes alone. Trace and lower it under `use_mesh(mesh, rules)`.

    Args:
      batch: shapes of a step's rows over all devices, such as `text_batch` and `stage_batch` give.
      frozen: name -> shapes, with shardings, of the networks that run beside the trained one.
      scorers: see `stages.assemble.assemble`.
    """
    scorer, frozen = make_scorer(config, compute), frozen or {}
    assembly, scorer, _ = assemble_fitted(
        stage,
        _Length(),
        scorer,
        mesh,
        rules,
        compute,
        frozen=frozen,
        scorers=scorers,
        patches=patches_per_row(batch),
    )
    where = batch_shardings(batch, mesh)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), batch, where)
    return AbstractStep(assembly.step, assembly.abstract, frozen, placed, assembly, scorer.remat)


def text_batch(stage: Stage, *, slots: int = 16, max_segment: int | None = None, role: str = "text") -> Batch:
    """Shapes of a step's rows, each a block of its own with `slots` examples of one segment.

    Args:
      max_segment: longest segment; None = the row.
      role: what the segment is: "text", or "completion" for supervised fine-tuning.
    """
    rows, length = stage.rows_per_step, stage.data.row_length
    grid: Any = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    examples: Any = jax.ShapeDtypeStruct((rows * slots,), jnp.int32)
    marks: Any = {name: jax.ShapeDtypeStruct((rows, length), jnp.bool_) for name in ("prompt", "completion")}
    return Batch(
        tokens=grid,
        segment_ids=grid,
        positions=grid,
        masks=marks,
        per_token={},
        per_segment={},
        per_example={},
        roles={role: examples},
        example_id=examples,
        block_rows=1,
        slots=slots,
        max_segment=max_segment or length,
    )
