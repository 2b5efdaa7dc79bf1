"""A recipe, and how its networks are spread and evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxpo.config.data import Tokenizer
from jaxpo.config.places import ModelFolder

ATTENTION, EXPERTS = ("xla",), ("blocks", "megablox", "ragged_dot", "triton")
"""Implementations in `jaxpo.ops.attention` and `jaxpo.ops.grouped`."""


@dataclass(frozen=True)
class Mesh:
    """Sizes of the mesh axes; -1 for at most one of them = all remaining devices.

    Attributes:
      rules: overrides of the logical-axis rules, as (logical axis, mesh axis or None) pairs.
    """

    replica: int = 1
    fsdp: int = -1
    expert: int = 1
    sequence: int = 1
    tensor: int = 1
    rules: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Compute:
    """How the networks are evaluated; changes speed and memory, not what is computed.

    Generation takes the platform's best implementations, whatever stands here; answers that are graded and rows that
    are drawn from a model have this dtype, the report's samples float32.

    Attributes:
      dtype: of activations and matrix products; parameters, norms, softmax, log-probs and losses stay float32.
      remat: "none", "full" (recompute each layer), "dots" (keep matrix products).
      attention: implementation name; None = the best this platform has.
      head_chunk: positions per vocabulary-head chunk; None = dense when the logits are small, else chosen.
      experts: implementation name of the experts' grouped product; None = the best this platform has.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    attention: str | None = None
    head_chunk: int | None = None
    experts: str | None = None


@dataclass(frozen=True)
class Run:
    """A recipe: a model, a tokenizer, and a tuple of stages, each starting from the one before.

    Attributes:
      model: preset name (`nano`, `lfm2_350m`, ...) or a model configuration.
      model_from: Hugging Face safetensors folder or jaxpo checkpoint with initial weights; None = random.
      corpus: a frozen dataclass with `build(directory)` that makes the run's own data files; `Data` and `Tokenizer`
        name them as "corpus:FILE". None = the files exist already.
      export: write an HF checkpoint of the last stage's model to `export/` and verify it.
      prompts: user turns answered at the end of each stage, shown in the report.
      probes: frozen dataclasses with `measure(context) -> {name: number or Measurement}`, run on the initial model and
        after every stage; results go to `summary.json` and the report.
    """

    name: str = "run"
    output_dir: str = "runs"
    seed: int = 0
    model: Any = "nano"
    model_from: ModelFolder | None = None
    corpus: Any = None
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    stages: tuple[Any, ...] = ()
    mesh: Mesh = field(default_factory=Mesh)
    compute: Compute = field(default_factory=Compute)
    export: bool = True
    prompts: tuple[str, ...] = ()
    probes: tuple[Any, ...] = ()
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
