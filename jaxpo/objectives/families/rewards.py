"""Reward modelling: what heads read of every response, gathered by role."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, rows_of, take
from jaxpo.data.rows.needs import Needs
from jaxpo.losses.ranking import ordered
from jaxpo.objectives.base import Difference, Max, Mean, Metric, Min, masked_mean
from jaxpo.objectives.families.features import lengths


@struct.dataclass
class Reading:
    """What the heads read of one role.

    Attributes:
      values: name -> `[N, ...]`, `[N, K, ...]` for lists; what is read per token `[N, T, ...]`, in the coordinates of
        the hidden states: entry t has read token t of the segment. 0 where absent.
      length: `[N]` or `[N, K]`: number of supervised tokens, float32; 0 where there is no such response.
      columns: the per-token columns that the needs name, `[N, T, ...]`, in target coordinates: entry t is about token
        t, which the state t has read.
    """

    values: dict[str, Array]
    length: Float[Array, "N ..."]
    columns: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def present(self) -> Bool[Array, "N ..."]:
        """There is such a response, with at least one supervised token."""
        return self.length > 0

    def __getitem__(self, name: str) -> Array:
        return self.values[name]


@struct.dataclass
class Rewards:
    """The features of a reward model.

    Attributes:
      roles: what was read of each role that the method names and the data set has.
      present: `[N]` True where an example has all its required roles and at least one supervised token.
      columns: the batch's per-example columns.
    """

    roles: dict[str, Reading]
    present: Bool[Array, "N"]
    columns: dict[str, Array]

    def pair(self, name: str = "score") -> tuple[Array, Array]:
        """What was read of the chosen and of the rejected response."""
        return self.roles["chosen"][name], self.roles["rejected"][name]


def gather(found: Mapping[str, Array], batch: Batch, needs: Needs, per_token: tuple[str, ...]) -> Rewards:
    """What heads read, `[R, M, ...]` or, where `per_token` names it, `[R, S, ...]`, by role and example.

    Raises:
      ValueError: an array of another shape, named.
    """
    for name, x in found.items():
        expected = batch.tokens.shape if name in per_token else (batch.tokens.shape[0], batch.slots)
        if x.shape[:2] != expected:
            kind = "per token" if name in per_token else "per segment"
            raise ValueError(f"read gives {name!r} as {x.shape}, but {kind} it begins with {expected}")
    roles = {role: reading(found, batch, role, needs, per_token) for role in roles_of(needs, batch)}
    return Rewards(roles, examples_present(batch, needs), dict(batch.per_example))


def reading(found: Mapping[str, Array], batch: Batch, role: str, needs: Needs, per_token: tuple[str, ...]) -> Reading:
    """One role of what heads read."""
    index = batch.roles[role]
    values = {name: (rows_at if name in per_token else take)(x, index, batch) for name, x in found.items()}
    columns = {name: rows_at(batch.per_token[name], index, batch) for name in needs.per_token}
    return Reading(values, lengths(batch, role), columns)


def rows_at(x: Float[Array, "R S ..."], index: Array, batch: Batch) -> Array:
    """`rows_of` with whatever axes follow the positions: `[N, T, ...]`."""
    if x.ndim == 2:
        return rows_of(x, index, batch)
    return jax.vmap(rows_at, in_axes=(-1, None, None), out_axes=-1)(x, index, batch)


def roles_of(needs: Needs, batch: Batch) -> tuple[str, ...]:
    """The required roles, and the optional ones that the data set has."""
    return needs.roles + tuple(role for role in needs.optional_roles if role in batch.roles)


def examples_present(batch: Batch, needs: Needs) -> Bool[Array, "N"]:
    """True for examples that have every required role (of a list, some entry) and at least one supervised token."""
    present, total = batch.present, jnp.zeros(batch.present.shape)
    for role in needs.roles:
        index, length = batch.roles[role], lengths(batch, role)
        present &= jnp.any(index.reshape(*present.shape, -1) >= 0, axis=-1)
        total += jnp.sum(length.reshape(*present.shape, -1), axis=-1)
    return present & (total > 0)


def reward_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: examples, and responses and supervised tokens of each role."""
    present = examples_present(batch, needs)
    counts = {"examples": jnp.sum(present.astype(jnp.float32))}
    for role in roles_of(needs, batch):
        length = lengths(batch, role)
        length = jnp.where(present.reshape(*present.shape, *(1,) * (length.ndim - 1)), length, 0.0)
        counts |= {f"{role}s": jnp.sum((length > 0).astype(jnp.float32)), f"{role}_tokens": jnp.sum(length)}
    return counts


def reward_metrics(x: Rewards, rewards: Mapping[str, Array]) -> dict[str, Metric]:
    """TRL's metrics of a reward trainer: of both sides of pairs, or of one role.

    Args:
      rewards: role -> `[N]` or `[N, K]`.
    """
    here = jnp.stack([_counted(x, role) for role in rewards])
    both = jnp.stack(list(rewards.values()))
    mean: Mean = masked_mean(both, here)
    return {
        "mean_reward": mean,
        "min_reward": Min(jnp.min(jnp.where(here, both, jnp.inf))),
        "max_reward": Max(jnp.max(jnp.where(here, both, -jnp.inf))),
    }


def pair_metrics(x: Rewards, chosen: Array, rejected: Array) -> dict[str, Metric]:
    """Accuracy and margin of decided pairs; equal rewards count as wrong."""
    here = decided(x)
    return {
        "accuracy": masked_mean((chosen > rejected).astype(jnp.float32), here),
        "margin": masked_mean(chosen - rejected, here),
    }


def list_metrics(x: Rewards, rewards: Array) -> dict[str, Metric]:
    """Accuracy and margin of every two candidates with different labels, equal rewards counted as wrong."""
    difference, pairs = differences(x, rewards)
    return {
        "accuracy": masked_mean((difference > 0).astype(jnp.float32), pairs),
        "margin": masked_mean(difference, pairs),
    }


def differences(x: Rewards, rewards: Array) -> tuple[Array, Array]:
    """How far the first of two candidates lies above the second, and where its label does, `[N, K, K]`."""
    here, labels = x.present[:, None] & x.roles["candidate"].present, x.columns["scores"]
    return rewards[:, :, None] - rewards[:, None, :], ordered(jnp.where(here, labels, 0.0), here)


def on_side(logits: Array, label: Array) -> Array:
    """Whether a logit lies on its label's side of 0; at 0 it does not."""
    return jnp.where(label >= 0.5, logits > 0, logits < 0)


def label_metrics(logits: Array, label: Array, here: Array) -> dict[str, Metric]:
    """Share of logits on the label's side of 0, and how far those of the right lie above those of the wrong."""
    good = label >= 0.5
    return {
        "accuracy": masked_mean(on_side(logits, label).astype(jnp.float32), here),
        "margin": Difference(masked_mean(logits, here & good), masked_mean(logits, here & ~good)),
    }


def decided(x: Rewards) -> Bool[Array, "N"]:
    """Pairs one of whose responses is the better one."""
    return x.present & ~x.columns["tie"] if "tie" in x.columns else x.present


def _counted(x: Rewards, role: str) -> Array:
    """Responses of the examples that there are."""
    present = x.roles[role].present
    return x.present if present.ndim == 1 else x.present[:, None] & present
