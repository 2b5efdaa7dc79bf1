"""The one training state, the same for every stage."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct
from jaxtyping import Array, Int


@struct.dataclass
class State:
    """Everything that changes during training, and so everything that a checkpoint must hold.

    Attributes:
      step: optimiser steps taken, int32.
      rows_seen: packed rows consumed: the data position, independent of batch size and host count; rows rather than
        tokens, so that int32 lasts.
      params: {"model" or "adapter": ..., "value": ..., ...}: what is trained, one nested dict per parameter table.
      opt_state: optax state.
      ema: exponential moving average of `params`, float32, or None.
      carry: state of the method (BCO's shift, LCPO's reliabilities, a moving reference).
      rng: key from which each step derives its own.
    """

    step: Int[Array, ""]
    rows_seen: Int[Array, ""]
    params: Any
    opt_state: Any
    ema: Any
    carry: Any
    rng: jax.Array
