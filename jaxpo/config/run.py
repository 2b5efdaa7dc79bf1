"""A recipe, and how its networks are spread and evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxpo.config.alerts import DEFAULT
from jaxpo.config.data import Tokenizer
from jaxpo.config.places import ModelFolder

ATTENTION = ("xla", "pallas", "splash", "cudnn")
CONV = ("xla", "pallas")
EXPERTS = ("blocks", "megablox", "ragged_dot", "triton")
"""Implementations in `jaxpo.ops.attention` and `jaxpo.ops.grouped`."""
Remat = Literal["auto", "none", "full", "mixer", "dots", "offload", "offload_dots"]


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
      dtype: of activations and matrix products; parameters, norms, softmax, log-probs and losses stay float32. None =
        bfloat16 on GPU and TPU, float32 on CPU; a run keeps what it began with.
      remat: what of a layer the backward pass finds: "none" (recompute nothing), "dots" (its matrix products), "mixer"
        (those of its mixer; the feed-forward is computed again), "full" (its input; all is computed again), "offload"
        (as "full", with the input in host memory), "offload_dots" (as "dots", in host memory), or "auto": the first of
        none, dots, mixer, full and offload whose estimate fits into memory.
      memory_gib: what a device may use, for "auto"; None = what the device says that it has.
      scan: run repeated groups of layers in loops: a smaller program that compiles sooner on accelerators, for one more
        copy of their weights in the compute type. None = in models of more than 24 layers; on CPU where `remat`
        recomputes something, which saves memory there in loops alone.
      attention: implementation name: "xla" (everywhere), "pallas" or "cudnn" (NVIDIA), "splash" (TPU); None = the best
        this platform has.
      head_chunk: positions per vocabulary-head chunk; None = dense when the logits are small, else chosen.
      experts: implementation name of the experts' grouped product; None = the best this platform has.
      conv: implementation name of the short convolution: "xla" (everywhere), "pallas" (TPU); None = the best this
        platform has.
      peak_tflops: dense TFLOP/s of one device in `dtype`, for the metric `mfu`; None = by a table of chips.
    """

    dtype: Literal["float32", "bfloat16"] | None = None
    remat: Remat = "none"
    attention: str | None = None
    head_chunk: int | None = None
    experts: str | None = None
    conv: str | None = None
    scan: bool | None = None
    memory_gib: float | None = None
    peak_tflops: float | None = None


@dataclass(frozen=True)
class Prometheus:
    """Where the newest metrics are offered in Prometheus' text format, by the first process alone.

    Attributes:
      folder: of node exporter's textfile collector; `jaxpo_RUN.prom` is written there. None = no file.
      port: answers GET /metrics while the run works. None = no port.
      address: that the port is bound to; "0.0.0.0" = reachable from other hosts.
    """

    folder: str | None = None
    port: int | None = None
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Run:
    """A recipe: a model, a tokenizer, and a tuple of stages, each starting from the one before.

    Attributes:
      model: preset name (`nano`, `lfm2_350m`, ...) or a model configuration.
      model_from: Hugging Face safetensors folder or jaxpo checkpoint with initial weights; None = random.
      corpus: a frozen dataclass with `build(directory)` that makes the run's own data files; `Data` and `Tokenizer`
        name them as "corpus:FILE". None = the files exist already.
      mirror: `s3://` or `gs://` folder that the run's directory is copied to, as its name, after every checkpoint; a
        start whose directory lacks what lies there fetches it. None = none.
      export: write an HF checkpoint of the last stage's model to `export/` and verify it.
      prompts: user turns answered at the end of each stage, shown in the report.
      probes: frozen dataclasses with `measure(context) -> {name: number or Measurement}`, run on the initial model and
        after every stage; results go to `summary.json` and the report. One that cannot measure every model says so
        with `problems(config) -> sentences`, which is asked before the run.
      hang_timeout: seconds after which a step that has not ended counts as hung: the stacks of all threads go to
        `stages/STAGE/hung_steps.txt` and to the terminal. A stage's first step, which is compiled, and evaluation are
        not watched; 0 = nothing is.
      hang_exit: end the process then, with exit code 75, for a scheduler to start it again.
      alerts: frozen dataclasses with `check(record, history) -> text or None`, asked at every line of metrics.jsonl.
      on_alert: frozen dataclasses with `send(alert)`, called on a thread of their own.
    """

    name: str = "run"
    output_dir: str = "runs"
    mirror: str | None = None
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
    hang_timeout: float = 1800.0
    hang_exit: bool = False
    prometheus: Prometheus = field(default_factory=Prometheus)
    alerts: tuple[Any, ...] = DEFAULT
    on_alert: tuple[Any, ...] = ()
