"""Optimisers and their learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Moments = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class OptimizerBase:
    """What every optimiser has: the learning-rate schedule, decoupled weight decay, clipping by the global norm.

    Attributes:
      lr_scheduler_type: "wsd" (warm-up, stable, linear decay over the last `decay_ratio`), "cosine", "linear",
        "constant".
      learning_rate: peak.
      final_learning_rate: where the decay ends, one step after the last that is taken.
      warmup_steps / warmup_ratio: length of the linear warm-up in steps, or as a share of the stage's steps; at most
        one is set.
      weight_decay: a step subtracts learning_rate * weight_decay * parameter; norm weights are spared.
      lr_factors: (glob over parameter paths, factor) pairs such as ("value/*", 10.0); the first that matches a
        parameter multiplies its learning rate, and with it its decay, in every step; 1 where none matches. Clipping
        comes before, and the metric `learning_rate` is the schedule's.
      offload: keep the optimiser's state in the host's memory and bring it to the device for the update; results stay
        the same. On a CPU the two memories are one, and nothing is saved.
    """

    learning_rate: float = 3e-4
    final_learning_rate: float = 0.0
    lr_scheduler_type: Literal["wsd", "cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    decay_ratio: float = 0.2
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    lr_factors: tuple[tuple[str, float], ...] = ()
    offload: bool = False


@dataclass(frozen=True)
class Optimizer(OptimizerBase):
    """AdamW (arXiv 1711.05101), the default.

    Attributes:
      moments: how the two moments are kept between steps: "float32" (8 bytes per parameter), "bfloat16" (4), or "int8"
        (2: a logarithm of the magnitude, relative to the largest of its row; vectors and leaves below 4,096 entries
        stay float32). The short forms round at random, without bias. Muon keeps its momentum in the same form. On a
        CPU "int8" saves memory between steps only: there an update forms the moments of all leaves side by side.
    """

    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    moments: Moments = "float32"


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
