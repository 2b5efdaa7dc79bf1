"""How much memory a training step needs on each device, estimated before anything is compiled, and what fits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.models.family import Config, family
from jaxpo.models.parts import Kept, Tower
from jaxpo.ops.head import CHUNK_BUDGET_BYTES, DENSE_BUDGET_BYTES

Tree = Any
CANDIDATES = ("none", "dots", "mixer", "full", "offload")
"""Policies from the fastest to the one that needs least."""
USABLE = 0.9
"""Share of a device's memory that a plan may fill: allocators leave gaps."""
_LOGITS = 3


@dataclass(frozen=True)
class Load:
    """What of a step lies on one device beside the network's own activations.

    Attributes:
      state: bytes of the training state.
      frozen: of the networks beside it.
      trained: of the parameters that have a gradient.
      weights: parameters of the network, as numbers.
      tokens: positions of one microbatch.
      microbatches: of a step.
      patches: of media in one microbatch, padding included.
      tower: what becomes of the encoder that they go through.
    """

    state: float
    frozen: float
    trained: float
    weights: float
    tokens: float
    microbatches: int = 1
    patches: float = 0.0
    tower: Tower = "trained"


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device that has most to hold."""

    state: float
    frozen: float
    gradients: float
    copies: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.state + self.frozen + self.temporary

    @property
    def temporary(self) -> float:
        """What is made in the step and gone after it."""
        return self.gradients + self.copies + self.activations + self.head


def estimate(
    config: Config, load: Load, remat: str, *, itemsize: int, looped: bool = False, tensor: int = 1, sequence: int = 1
) -> Estimate:
    """The memory of one step.

        gradients   = trained * (1, or 2 where several microbatches add theirs up)
        copies      = itemsize * weights, where they differ from the parameters: another type, or stacks for loops,
                      which have gradients of their own
        activations = itemsize * tokens * (values kept of all layers + those at work), of the family's `kept`; where
                      positions lie on several devices also four times the keys and values of the whole row. Beside
                      media, what the encoder keeps of their patches; or that and its layer at work, where it is more:
                      it runs before all else, and backwards after it
        head        = three times the logits at hand, float32

    It knows nothing of what a compiler joins or lays out twice, nor of attention's scores. Temporary memory of the
    small steps that `tests/train/test_memory.py` compiles for CPU is within a third of it; no accelerator was measured.

    Args:
      itemsize: bytes of a value in the compute type.
      looped: layers run in loops.
      tensor: devices that share a layer's products.
      sequence: devices over which the positions of a row are spread; `load.tokens` are those of one.

    Raises:
      ConfigError: the family does not say what it keeps.
    """
    kept = family(config).kept
    if kept is None:
        raise ConfigError(
            f"compute.remat auto: a model of the family {family(config).name!r} does not say what its layers keep; "
            "choose a policy by name."
        )
    values = kept(config, remat, tensor)
    # Gathered, laid out for the loop over queries, and the gradients of both.
    gathered = 0.0 if sequence == 1 else 4 * sequence * values.keys
    text = load.tokens * (values.layers + values.working + gathered)
    media = Kept(0.0, 0.0)
    if load.patches and (encoder := family(config).encoder) is not None:
        media = encoder.kept(config, remat, tensor, load.tower)
    logits = 4.0 * load.tokens * getattr(config, "vocab_size", 0) / tensor
    return Estimate(
        state=load.state,
        frozen=load.frozen,
        gradients=load.trained * (1 if load.microbatches == 1 else 2),
        copies=itemsize * load.weights * (2 if looped else 1 if itemsize < 4 else 0),
        activations=itemsize * (load.patches * media.layers + max(text, load.patches * media.working)),
        head=_LOGITS * (logits if logits <= DENSE_BUDGET_BYTES else CHUNK_BUDGET_BYTES),
    )


def choose(estimates: Mapping[str, Estimate], available: float, before: str | None = None) -> str:
    """The first policy whose estimate fits; one that a run has worked with before stays as long as it fits.

    Raises:
      ConfigError: none fits; says what is needed least.
    """
    fitting = [name for name, found in estimates.items() if found.total <= USABLE * available]
    if before in fitting:
        return str(before)
    if not fitting:
        least = min(estimates, key=lambda name: estimates[name].total)
        raise ConfigError(
            f"compute.remat auto: even {least!r} needs {gib(estimates[least].total)} per device, and there are "
            f"{gib(available)}; use more devices (mesh), fewer rows_per_step or more gradient_accumulation_steps, a "
            "shorter data.row_length, or name a policy to try it all the same."
        )
    return fitting[0]


def device_memory(device: jax.Device | None = None) -> float:
    """Bytes that a device has; those of a CPU are the machine's, shared by its devices."""
    device = jax.local_devices()[0] if device is None else device
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return float(limit)
    if device.platform != "cpu":
        raise ConfigError(
            f"compute.remat auto: {device.device_kind} does not say how much memory it has; give compute.memory_gib."
        )
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / jax.local_device_count()


def bytes_of(tree: Tree) -> float:
    """Bytes of a tree's arrays, or of their shapes, on one device."""
    return float(sum(_shard(x) * _itemsize(x) for x in jax.tree.leaves(tree)))


def numbers_of(tree: Tree) -> float:
    """Values of a tree's arrays on one device."""
    return float(sum(_shard(x) for x in jax.tree.leaves(tree)))


def _shard(x: Any) -> int:
    shape: Sequence[int] = x.shape if getattr(x, "sharding", None) is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape)


def _itemsize(x: Any) -> int:
    return 8 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.dtype(x.dtype).itemsize


def gib(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / 2**30:.2f} GiB"
