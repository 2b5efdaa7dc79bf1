"""Typed configuration of a run: frozen dataclasses only, no work.

Field names are TRL's where the concept is TRL's. Importing this module imports no jax, so that `--help`, `explain` and
a typo answer at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Fim:
    """Fill-in-the-middle (arXiv 2207.14255): documents rearranged as prefix, suffix, middle; all tokens are trained on.

    The report applies it to half of its code; the order of the parts is not published.

    Attributes:
      rate: share of the documents that are rearranged.
      order: "psm" (prefix, suffix, middle) or "spm" (suffix, then prefix and middle).
      files: glob patterns over the names of the files whose documents are meant, such as "code-*.jsonl"; () = all.
      seed: of the draws, which belong to the document's text: the same in every epoch.
    """

    rate: float = 0.5
    order: Literal["psm", "spm"] = "psm"
    files: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Curriculum:
    """Train from easy to hard rows instead of in a shuffled order; the same in every epoch.

    Attributes:
      column: a number in every training row, larger for harder ones (`jaxpo data difficulty` makes it).
      phases: parts of equal size with rising difficulty; shuffled inside.
      mix: share of the graded rows that are spread at random over all phases.
      ungraded: what rows without the column mean: "error", or "spread" over all phases too (conversations that cannot
        be graded, among exercises that can).
    """

    column: str = "difficulty"
    phases: int = 4
    mix: float = 0.1
    ungraded: Literal["error", "spread"] = "error"


@dataclass(frozen=True)
class Data:
    """Where a stage's examples come from and how they are cut and packed.

    Attributes:
      train: JSONL, Parquet, text files or folders of them; "corpus:FILE" is one of the run's corpus, "stage:NAME/FILE"
        one that an earlier work stage writes.
      eval: held-out files of the same type; empty = no evaluation.
      max_length: longest segment in tokens; longer examples are truncated as `truncation` says.
      row_length: tokens per packed row (>= max_length).
      truncation: "response_right" cuts the end of responses, "prompt_left" the start of prompts (both sides of a pair
        get the same prompt), "drop" leaves the example out, "error" stops; all counted. Plain text is split instead.
      train_on: "auto" = assistant turns for messages, completion for prompt+completion, everything for text.
      shuffle: a new order each epoch.
      curriculum: from easy to hard instead, by a column of the training rows. `--stage.data.curriculum` or any of its
        fields on the command line switches it on.
      block_rows: rows within which an example's segments stay; None = the smallest that fits and fills >= 95%.
      packing: "best_fit", or "none" for one segment per row.
      fim: rearrange plain-text training documents for infilling; those that would exceed max_length stay as they are,
        and are counted.
    """

    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    max_length: int = 1024
    row_length: int = 1024
    truncation: Literal["response_right", "prompt_left", "drop", "error"] = "response_right"
    train_on: Literal["auto", "assistant", "completion", "all"] = "auto"
    shuffle: bool = True
    block_rows: int | None = None
    packing: Literal["best_fit", "none"] = "best_fit"
    fim: Fim | None = None
    curriculum: Curriculum | None = None


@dataclass(frozen=True)
class OptimizerBase:
    """What every optimiser has: the learning-rate schedule, decoupled weight decay, clipping by the global norm.

    Attributes:
      lr_scheduler_type: "wsd" (warm-up, stable, linear decay over the last `decay_ratio`), "cosine", "linear",
        "constant".
      learning_rate: peak.
      final_learning_rate: at the last step.
      warmup_steps / warmup_ratio: length of the linear warm-up in steps, or as a share of the stage's steps; at most
        one is set.
      weight_decay: a step subtracts learning_rate * weight_decay * parameter; norm weights are spared.
    """

    learning_rate: float = 3e-4
    final_learning_rate: float = 0.0
    lr_scheduler_type: Literal["wsd", "cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    decay_ratio: float = 0.2
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Optimizer(OptimizerBase):
    """AdamW (arXiv 1711.05101), the default."""

    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon: orthogonalised momentum (arXiv 2502.16982) for projections, AdamW with the same schedule for the rest.

    The parameter table says which leaves are matrices of a product, and over which axes; embedding, convolution taps,
    norms and heads stay on AdamW.

    Attributes:
      muon_beta: of the momentum.
      nesterov: look ahead with the present gradient.
      ns_steps: Newton-Schulz iterations.
      consistent_rms: root mean square of an update, whatever the matrix's shape; 0.2 is AdamW's usual size, so that one
        learning rate and one decay serve both. None = scale by sqrt(max(1, out / in)) instead.
    """

    muon_beta: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    consistent_rms: float | None = 0.2


@dataclass(frozen=True)
class Adafactor(OptimizerBase):
    """Adafactor (arXiv 1804.04235): second moments of a matrix from its row and column means; little memory.

    Attributes:
      multiply_by_parameter_scale: a step is relative to the root mean square of its parameter (at least 1e-3), so
        learning rates are about a thousand times AdamW's.
      clipping_threshold: largest root mean square of a leaf's update, before the learning rate; None does not clip.
      decay_rate: the second moment of step t weighs the past by 1 - t^-decay_rate.
      momentum: of the update; None keeps none.
      min_dim_size_to_factor: matrices whose second-largest axis is shorter keep every second moment.
    """

    multiply_by_parameter_scale: bool = True
    clipping_threshold: float | None = 1.0
    decay_rate: float = 0.8
    momentum: float | None = None
    min_dim_size_to_factor: int = 128
    adafactor_epsilon: float = 1e-30


AdamW = Optimizer
OPTIMIZERS: dict[str, type[OptimizerBase]] = {"adamw": Optimizer, "muon": Muon, "adafactor": Adafactor}
"""Names of optimisers on the command line (`--stage.optimizer muon`)."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685): W + scale * A B, only A and B are trained. There is no dropout.

    Attributes:
      rank: r of A [in, r] and B [r, out].
      alpha: scale = alpha / rank.
      use_rslora: scale = alpha / sqrt(rank) instead (arXiv 2312.03732).
      init: of A, "kaiming" (uniform, PEFT's default) or "gaussian"; B starts at zero.
      target_modules: glob patterns over parameter paths, such as "*/q_proj/weight", "*/in_proj/weight" or
        "layers/3/*/w1/weight"; "all-linear" = every projection of attention, convolution and feed-forward.
    """

    rank: int = 16
    alpha: float = 32.0
    use_rslora: bool = False
    init: Literal["kaiming", "gaussian"] = "kaiming"
    target_modules: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True)
class Routing:
    """How the experts of a mixture are kept equally busy; a dense model has none of it.

    Attributes:
      bias_update_rate: after every step the selection bias of each expert moves by this much towards the mean load
        (arXiv 2408.15664); 0 = the bias stays.
      router_aux_loss_coef: weight of the load balance loss (arXiv 2101.03961), 0.01 in Liquid's fine-tuning; 0 = off.
        It needs the router's statistics of the whole step, for which the networks run once more.
      router_z_loss_coef: weight of the squared logsumexp of the router's logits (arXiv 2202.08906), 0.001 there.
    """

    bias_update_rate: float = 0.0
    router_aux_loss_coef: float = 0.0
    router_z_loss_coef: float = 0.0


@dataclass(frozen=True)
class Stage:
    """What every trained stage has; subclasses say what is minimised.

    Attributes:
      name: directory and report section; unique in a recipe.
      init_from: "previous" stage (or the run's initial weights for the first), another stage's name, a checkpoint
        directory, or "random" for fresh weights.
      model: preset name or configuration of a stage with an architecture of its own, such as a larger teacher; it
        starts from "random" or from a model of the same shape. None = the run's.
      rows_per_step: packed rows per optimiser step over all devices.
      gradient_accumulation_steps: microbatches per step.
      max_steps / max_tokens / num_train_epochs: the budget; exactly one is set (tokens count the slots of
        rows, padding included).
      eval_steps: evaluate every n steps (and at the end); 0 = at the end only.
      save_steps: checkpoint every n steps (and at the end); 0 = at the end only.
      snapshot_steps: keep the model of every n-th step for good, in `snapshots/STEP` (a success matrix grades them);
        0 = none.
      lora: train low-rank adapters beside the frozen model, which then serves as the reference too; None = train the
        model. `--stage.lora` or any of its fields on the command line switches it on.
      optimizer: chooses the optimiser by value; on the command line `--stage.optimizer NAME` (adamw, muon, adafactor).
      routing: balance of a mixture of experts; Pretrain moves the routing bias, the others leave it as it is.
      ema_decay: keep an exponential moving average of what is trained, avg <- decay avg + (1 - decay) params after
        every step, from the first parameters on; the stage's folder then holds its model too, in `ema/`. None = off.
      use_ema: held-out evaluation measures the average, and the stage hands it on; the last parameters are in `last/`.
    """

    name: str = "stage"
    data: Data = field(default_factory=Data)
    optimizer: Optimizer | Muon | Adafactor = field(default_factory=Optimizer)
    init_from: str = "previous"
    model: Any = None
    rows_per_step: int = 8
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    max_tokens: int | None = None
    num_train_epochs: float | None = None
    eval_steps: int = 0
    eval_rows: int = 64
    logging_steps: int = 1
    save_steps: int = 0
    save_total_limit: int = 2
    snapshot_steps: int = 0
    metric_for_best_model: str | None = None
    lora: LoRA | None = None
    routing: Routing = field(default_factory=Routing)
    ema_decay: float | None = None
    use_ema: bool = False


@dataclass(frozen=True)
class Pretrain(Stage):
    """Next-token prediction on packed documents."""

    name: str = "pretrain"
    routing: Routing = field(default_factory=lambda: Routing(bias_update_rate=1e-3))


@dataclass(frozen=True)
class SFT(Stage):
    """Next-token prediction on the supervised tokens of conversations or prompt-completion rows.

    Attributes:
      loss: None = negative log-likelihood per token; or a method of the sft family: `--stage.loss implicit_reward`.
      precompute_ref_log_probs: as for Preference, where the loss compares with the model that the stage starts from.
      embedding_dropout: rate of dropout on the embedding's output, while training; the output matrix is not touched.
    """

    name: str = "sft"
    loss: Any = None
    precompute_ref_log_probs: bool = True
    embedding_dropout: float = 0.0


@dataclass(frozen=True)
class Distill(Stage):
    """Cross-entropy and a teacher's distributions on the supervised tokens of texts or conversations.

    Attributes:
      loss: a method of the distillation family: `--stage.loss decoupled_topk_kd`.
      teacher: an earlier stage's name, a run or stage directory, or an HF export, with the student's tokenizer.
      precompute_teacher: record the teacher's likeliest tokens once, instead of running it in every step.
      records: folder of records of the training files that `jaxpo data teach` wrote; then no teacher is needed.
      eval_records: likewise of the held-out files.
    """

    name: str = "distill"
    loss: Any = None
    teacher: str | None = None
    precompute_teacher: bool = True
    records: str | None = None
    eval_records: str | None = None


@dataclass(frozen=True)
class Preference(Stage):
    """Preference optimisation with any method of `jaxpo.losses`.

    Attributes:
      loss: a method's own dataclass (`jaxpo.objectives.methods.*`); chooses the method by value. On the command line
        `--stage.loss NAME`.
      precompute_ref_log_probs: store the reference's per-token log-probs once, instead of running the reference in
        every step.
      use_weighting: weight each pair by how likely the policy is to write it (WPO).
      diagnostics: further held-out and training metrics on pairs: "ranking_accuracy" (of the policy itself, idealised,
        difficulty), "likelihood" (where the probability of both sides goes).
      sync_ref_model: let the reference follow the policy (TR-DPO, arXiv 2404.09656), whatever the loss.
      ref_model_mixup_alpha: share of the policy in the moved reference; 1 = a copy of it.
      ref_model_sync_steps: optimiser steps between two moves.
    """

    name: str = "preference"
    loss: Any = None
    precompute_ref_log_probs: bool = True
    use_weighting: bool = False
    diagnostics: tuple[Literal["ranking_accuracy", "likelihood"], ...] = ()
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512


@dataclass(frozen=True)
class Reward(Stage):
    """Bradley-Terry reward model with a value head at each response's last token; a column `margin` is used if there.

    Attributes:
      label_smoothing: probability that a label is flipped.
      center_rewards_coefficient: weight of the squared sum of the two rewards (TRL); None = off.
    """

    name: str = "reward"
    label_smoothing: float = 0.0
    center_rewards_coefficient: float | None = None


@dataclass(frozen=True)
class Search:
    """A grid of merges, each evaluated on held-out files; the best one is the result, others are forgotten.

    Attributes:
      select: held-out files by which the best is chosen: text, prompt-completion or preference rows.
      report: other files of the same kinds, on which the chosen one is measured afterwards: what was best on the first
        files is partly so by luck.
      metrics: (name, weight) pairs: bits_per_byte, sft_loss, ranking_accuracy, exact_match. The score is the weighted
        sum, bits and losses counted negative; empty = the one metric that the files are for.
      methods: dataclasses of `jaxpo.merge.methods`; empty = a grid of all that fit (`jaxpo.merge.grid`).
      weights: sets of weights to try with every method that has weights; empty = equal ones, and each model emphasised.
      max_length: of the scored sequences, in tokens.
      parallel: candidates made in one pass over the models' leaves, and so held in memory together.
    """

    select: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    methods: tuple[Any, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    max_length: int = 256
    parallel: int = 4


@dataclass(frozen=True)
class Merge:
    """One model from the models of earlier stages. A stage of zero steps.

    Attributes:
      models: earlier stages; empty = all trained ones but the base.
      weights: one per model; a soup's sum to 1. None = equal ones, 1 / n each.
      method: a dataclass of `jaxpo.merge.methods`; None = their weighted average (soup). On the command line
        `--merge.method NAME`.
      base: theta_0 of the methods on task vectors: an earlier stage, or a folder with a model.
      search: try a grid of methods and weights instead and keep the best.
    """

    name: str = "merge"
    models: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    method: Any = None
    base: str | None = None
    search: Search | None = None


@dataclass(frozen=True)
class Work(ABC):
    """Base of the stages that train nothing: they write files for later stages, with the models there are by then.

    Later stages name such a file as "stage:NAME/FILE". Subclasses are frozen dataclasses whose module imports no jax;
    they do their work in `run`.
    """

    name: str

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the files that the stage will have written when it ends."""

    def inputs(self) -> tuple[str, ...]:
        """Data files that it reads, "corpus:" and "stage:" ones included."""
        return ()

    def needed_models(self) -> tuple[str, ...]:
        """Earlier stages whose models it uses; "previous" is the last one that has a model."""
        return ()

    def problems(self) -> list[str]:
        """What is wrong with its own settings, one sentence each; asked before the run begins."""
        return []

    @abstractmethod
    def run(self, context: Any) -> dict[str, Any]:
        """Write the files; returns counts and figures for the run's summary.

        A second call after an interruption goes on from what lies in `context.folder`.

        Args:
          context: a `jaxpo.construct.context.WorkContext`.
        """


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
class Tokenizer:
    """A `tokenizer.json` to use, or what to train one on.

    Attributes:
      path: existing tokenizer.json (or a folder holding it); None = train.
      train_on: text, JSONL or Parquet files.
      vocab_size: total, special tokens included.
    """

    path: str | None = None
    train_on: tuple[str, ...] = ()
    vocab_size: int = 4096


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
    model_from: str | None = None
    corpus: Any = None
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    stages: tuple[Any, ...] = ()
    mesh: Mesh = field(default_factory=Mesh)
    compute: Compute = field(default_factory=Compute)
    export: bool = True
    prompts: tuple[str, ...] = ()
    probes: tuple[Any, ...] = ()
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
