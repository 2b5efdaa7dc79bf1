"""The trained stages of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jaxpo.config.data import Data, Texts
from jaxpo.config.image_data import ImageData
from jaxpo.config.networks import Beside
from jaxpo.config.optimizers import Adafactor, Muon, Optimizer
from jaxpo.config.part import RecipePart
from jaxpo.config.places import ModelFolder, OtherFile
from jaxpo.config.text_adapter import TextAdapter


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685): W + scale * A B, only A and B are trained. There is no dropout.

    Attributes:
      rank: r of A [in, r] and B [r, out].
      alpha: scale = alpha / rank.
      use_rslora: scale = alpha / sqrt(rank) instead (arXiv 2312.03732).
      init: of A, "kaiming" (uniform, PEFT's default) or "gaussian"; B starts at zero.
      target_modules: glob patterns over parameter paths, such as "*/q_proj/weight", "*/in_proj/weight" or
        "layers/3/*/w1/weight"; "all-linear" = every projection of attention, convolution and dense
        feed-forward; the experts of a mixture and their router stay as they are.
    """

    rank: int = 16
    alpha: float = 32.0
    use_rslora: bool = False
    init: Literal["kaiming", "gaussian"] = "kaiming"
    target_modules: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True)
class QAT:
    """Quantisation-aware training: every product takes the weight rounded to few bits, the gradient goes straight
    through to the weight that is rounded, and the stage hands on the rounded model.

    Attributes:
      grid: "int4", "int8" (symmetric; in groups of 32 it is llama.cpp's Q8_0), "q4_0" (llama.cpp's), "8da4w"
        (ExecuTorch's: 4-bit weights, activations in 8 bits); the output matrix gets 8 bits on all but the last.
      group: values of a row that share a scale; 0 = the whole row.
    """

    grid: Literal["int4", "int8", "q4_0", "8da4w"] = "q4_0"
    group: int = 32


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
class Stage(RecipePart):
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
      metric_for_best_model: of the held-out evaluations; the checkpoint that is best by it is not deleted.
      load_best_model_at_end: what the stage leaves is that checkpoint's model, not the last one.
      snapshot_steps: keep the model of every n-th step for good, in `snapshots/STEP` (a success matrix grades them);
        0 = none.
      lora: train low-rank adapters beside the frozen model, which is the reference too, unless `beside` names another;
        None = train the model. `--stage.lora` or any of its fields on the command line switches it on.
      qat: train the model on a grid of few bits; None = no rounding. `--stage.qat` or any of its fields on the command
        line switches it on.
      train: globs over the paths of what would be trained, such as "model/layers/0/*", "value/*", with adapters
        "adapter/*/b"; what none matches stays as it is, without gradient, optimiser state or average.
      beside: networks that the loss reads and the stage does not train, by the names that the loss gives them, such as
        ("reference", Beside("sft")); one that is not named is the model that the stage starts from. On the command line
        `--stage.beside.reference.source sft`.
      optimizer: chooses the optimiser by value; on the command line `--stage.optimizer NAME` (adamw, muon, adafactor).
      routing: balance of a mixture of experts; Pretrain moves the routing bias, the others leave it as it is.
      ema_decay: keep an exponential moving average of what is trained, avg <- decay avg + (1 - decay) params after
        every step, from the first parameters on; the stage's folder then holds its model too, in `ema/`. None = off.
      seed: of the order of rows, of dropout, and of fresh weights; None = the run's.
      use_ema: held-out evaluation measures the average, and the stage hands it on; the last parameters are in `last/`.
      RECORDS: what a loss reads of networks beside the trained one can be stored before the first step: the data are
        there by then.
    """

    TRAINS: ClassVar[bool] = True
    RECORDS: ClassVar[bool] = True

    name: str = "stage"
    data: Data = field(default_factory=Data)
    optimizer: Optimizer | Muon | Adafactor = field(default_factory=Optimizer)
    init_from: ModelFolder = "previous"
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
    load_best_model_at_end: bool = False
    lora: LoRA | None = None
    qat: QAT | None = None
    train: tuple[str, ...] = ("*",)
    beside: tuple[tuple[str, Beside], ...] = ()
    routing: Routing = field(default_factory=Routing)
    ema_decay: float | None = None
    use_ema: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class Pretrain(Stage):
    """Next-token prediction on packed documents."""

    name: str = "pretrain"
    routing: Routing = field(default_factory=lambda: Routing(bias_update_rate=1e-3))


@dataclass(frozen=True)
class MaskedLM(Stage):
    """Masked language modelling on packed documents: a model that looks both ways tells tokens that are hidden from it.

    Attributes:
      mask_token: token of the vocabulary that says that one is hidden; `--tokenizer.added "<|mask|>"` adds it.
      mask_rate: share of the tokens of each text that are hidden; special tokens never are.
      mask_share: of these, the share that becomes the mask token.
      random_share: the share that becomes another token, drawn from all that are not special; the rest stay.
      whole_words: words are hidden, with all their tokens.
      embedding_dropout: rate of dropout on the embedding's output, while training.
    """

    name: str = "masked_lm"
    mask_token: str = "<|mask|>"
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False
    embedding_dropout: float = 0.0


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
    precompute_ref_log_probs: bool | None = None
    embedding_dropout: float = 0.0


@dataclass(frozen=True)
class Distill(Stage):
    """Cross-entropy and a teacher's distributions on the supervised tokens of texts or conversations.

    Attributes:
      loss: a method of the distillation family: `--stage.loss decoupled_topk_kd`.
      teacher: an earlier stage's name, a run or stage directory, or an HF export, with the student's tokenizer. Short
        for `beside.teacher.source`.
      precompute_teacher: record the teacher's likeliest tokens once, instead of running it in every step. Short for
        `beside.teacher.recorded`.
      records: folder of records of the training files that `jaxpo data teach` wrote; then no teacher is needed.
      eval_records: likewise of the held-out files.
    """

    name: str = "distill"
    loss: Any = None
    teacher: ModelFolder | None = None
    precompute_teacher: bool = True
    records: OtherFile | None = None
    eval_records: OtherFile | None = None


@dataclass(frozen=True)
class Preference(Stage):
    """Preference optimisation with any method of `jaxpo.losses`.

    Attributes:
      loss: a method's own dataclass (`jaxpo.objectives.methods.*`); chooses the method by value. On the command line
        `--stage.loss NAME`.
      precompute_ref_log_probs: True = store the reference's per-token log-probs once; False = run the reference in
        every step; None = stored, except where the loss needs its whole distributions or where it moves. Short for
        `beside.reference.recorded`.
      use_weighting: weight each pair by how likely the policy is to write it (WPO).
      diagnostics: further held-out and training metrics on pairs, and on the best and worst of lists:
        "ranking_accuracy" (of the policy itself, idealised, difficulty), "likelihood" (where the probability of both
        sides goes).
      sync_ref_model: let the reference follow the policy (TR-DPO, arXiv 2404.09656), whatever the loss.
      ref_model_mixup_alpha: share of the policy in the moved reference; 1 = a copy of it.
      ref_model_sync_steps: optimiser steps between two moves.
    """

    name: str = "preference"
    loss: Any = None
    precompute_ref_log_probs: bool | None = None
    use_weighting: bool = False
    diagnostics: tuple[Literal["ranking_accuracy", "likelihood"], ...] = ()
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512


@dataclass(frozen=True)
class Reward(Stage):
    """Reward model: of pairs with a value head at each response's last token, or as its loss says.

    Attributes:
      loss: None = Bradley-Terry with the two settings below, where a column `margin` is used if there; or a method of
        the reward family with its own settings: `--stage.loss mapl_reward`.
      label_smoothing: probability that a label is flipped; only where `loss` is None.
      center_rewards_coefficient: weight of the squared sum of the two rewards (TRL); None = off; only where `loss` is
        None.
      embedding_dropout: rate of dropout on the embedding's output, while training.
      pooled_dropout: likewise on the final states that the heads read.
    """

    name: str = "reward"
    loss: Any = None
    label_smoothing: float = 0.0
    center_rewards_coefficient: float | None = None
    embedding_dropout: float = 0.0
    pooled_dropout: float = 0.0


@dataclass(frozen=True)
class Retrieval(Stage):
    """Retriever: a vector for each token of queries and documents (ColBERT), or one for each text, as its loss says.

    Attributes:
      loss: None = contrast of each query's document with all others of the step; or a method of the retrieval family
        with its own settings: `--stage.loss colbert_distillation`.
      texts: how queries and documents become tokens.
      embedding_dropout: rate of dropout on the embedding's output, while training.
    """

    name: str = "retrieval"
    loss: Any = None
    texts: Texts = field(default_factory=Texts)
    embedding_dropout: float = 0.0


@dataclass(frozen=True)
class Denoise(Stage):
    """Diffusion model: learn to denoise images with captions, or to prefer one image of a pair, as its loss says.

    A row is an image or a pair, `data.max_length` the tokens of a caption's segment. The model's configuration says how
    noise grows and what the model predicts.

    Attributes:
      loss: None = the squared error of what the model predicts; or a method of the image family with its own settings:
        `--stage.loss diffusion_dpo`.
      images: how rows become images.
      add_users: give the model attention to users of `images.users.width` where the one that the stage starts from has
        none; it changes nothing until it is trained.
      add_text_adapter: likewise an adapter of a second text encoder's states, which the rows then bring; the model
        has more to look at from the first step on.
      sync_ref_model, ref_model_mixup_alpha, ref_model_sync_steps: as for Preference; a teacher that is the moving
        average of the trained model with decay .999 is a share of .001 moved in every step.
    """

    name: str = "denoise"
    data: Data = field(default_factory=lambda: Data(max_length=16, row_length=16))
    loss: Any = None
    images: ImageData = field(default_factory=ImageData)
    add_users: bool = False
    add_text_adapter: TextAdapter | None = None
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.001
    ref_model_sync_steps: int = 1
