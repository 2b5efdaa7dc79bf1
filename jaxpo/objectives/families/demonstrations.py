"""Objectives over demonstrations that look at whole responses: SFT beyond the mean over tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, take
from jaxpo.data.rows.needs import Needs
from jaxpo.losses import vocab
from jaxpo.objectives.base import Mean
from jaxpo.objectives.families.features import Scores, Shape, Side, Wanted, lengths, side
from jaxpo.objectives.families.pairs import Reward, per_supervised_token
from jaxpo.ops.head import map_vocab
from jaxpo.ops.segments import segment_bounds

Tree = Any


@struct.dataclass
class Demonstrations:
    """The features of a method on demonstrations.

    Attributes:
      completion: the supervised tokens of each example (all assistant turns of a conversation).
      present: `[N]` False where there is no example.
      extra: what the method's `encode_extra` made.
    """

    completion: Side
    present: Bool[Array, "N"]
    extra: dict[str, Array] = struct.field(default_factory=dict)


def demonstrations(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Demonstrations:
    """Gather the completions."""
    completion = side(scores, batch, "completion", want)
    return Demonstrations(completion, demonstration_present(batch, completion.length), extra)


def demonstration_present(batch: Batch, length: Array) -> Bool[Array, "N"]:
    """True for examples with at least one supervised token."""
    return batch.present & (batch.roles["completion"] >= 0) & (length > 0)


def demonstration_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: completions, and their supervised tokens."""
    length = lengths(batch, "completion")
    present = demonstration_present(batch, length)
    return {
        "completions": jnp.sum(present.astype(jnp.float32)),
        "completion_tokens": jnp.sum(jnp.where(present, length, 0.0)),
    }


def demonstration_metrics(x: Demonstrations, reward: Reward) -> dict[str, Mean]:
    """TRL's metrics of an SFT trainer, per supervised token."""
    return {
        "entropy": per_supervised_token("entropy", x.present, x.completion),
        "mean_token_accuracy": per_supervised_token("correct", x.present, x.completion),
    }


def prompt_values(unembedding: Float[Array, "V D"], hidden: Float[Array, "R S D"], batch: Batch) -> Float[Array, "N"]:
    """log sum exp of the logits that predict each completion's first supervised token; no gradient."""
    start, _ = segment_bounds(batch.segment_ids, batch.slots)
    inside = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    first = jnp.argmax(inside & batch.masks["completion"][:, None, :], axis=-1)
    index = jnp.maximum(first - 1, start)[..., None]
    before = jax.lax.stop_gradient(jnp.take_along_axis(hidden, index, axis=1))
    head = jax.lax.stop_gradient(unembedding)
    value = map_vocab(lambda logits, _: vocab.log_normalizer(logits), ((head, before),), first)
    return take(value, batch.roles["completion"], batch)


DEMONSTRATION_SHAPE = Shape(demonstrations, demonstration_counts, demonstration_metrics)
