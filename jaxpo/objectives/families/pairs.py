"""Objectives over pairs: a chosen and a rejected response per example.

A pairwise method is one call of a pure loss on a `Pair`; counting, encoding, dividing and metrics are shared here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.needs import Needs
from jaxpo.losses import wpo_weight
from jaxpo.objectives.base import Counts, Mean, masked_mean
from jaxpo.objectives.families.features import Scores, Shape, Side, Tokens, Wanted, lengths, side

SIDES = ("chosen", "rejected")
Terms = Array | Mapping[str, Array]
"""Unreduced losses `[N]`: divided by the number of pairs, or, in a mapping, by the count each is named after."""


@struct.dataclass
class Pair:
    """The features of a pairwise method.

    Attributes:
      chosen, rejected: the two sides.
      present: `[N]` False where there is no pair; such entries must not count.
      columns: the batch's per-example columns.
      others: further roles by name ("gold", "rationale"); length 0 where an example lacks one.
      extra: what the method's `encode_extra` made.
    """

    chosen: Side
    rejected: Side
    present: Bool[Array, "N"]
    columns: dict[str, Array]
    others: dict[str, Side] = struct.field(default_factory=dict)
    extra: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def logps(self) -> tuple[Array, Array, Array, Array]:
        """`P_w, P_l, R_w, R_l`, the argument order of the referenced losses."""
        return self.chosen.logps, self.rejected.logps, self.chosen.ref_logps, self.rejected.ref_logps

    @property
    def policy_logps(self) -> tuple[Array, Array]:
        """`P_w, P_l`, for losses without a reference."""
        return self.chosen.logps, self.rejected.logps

    @property
    def kls(self) -> tuple[Array, Array]:
        """`K_w, K_l`, for methods that read the reference's "vocab"."""
        return self.chosen.kl, self.rejected.kl

    @property
    def lengths(self) -> tuple[Array, Array]:
        """`|y_w|, |y_l|` in tokens."""
        return self.chosen.length, self.rejected.length

    @property
    def tokens(self) -> tuple[Tokens, Tokens]:
        """The per-token rows of both sides, for methods that set `TOKENS = True`."""
        return self.chosen.tokens, self.rejected.tokens

    @property
    def token_logps(self) -> tuple[Array, Array, Array, Array]:
        """Per-token `P_w, P_l, R_w, R_l`, each `[N, T]`."""
        chosen, rejected = self.tokens
        return chosen.logps, rejected.logps, chosen.ref_logps, rejected.ref_logps

    @property
    def token_kls(self) -> tuple[Array, Array]:
        """KL(reference || policy) at every token of both sides, `[N, T]`, where the reference's "vocab" is read."""
        chosen, rejected = self.tokens
        return chosen.kl, rejected.kl

    def token_columns(self, name: str) -> tuple[Array, Array]:
        """A per-token column of both sides, `[N, T]`, for methods with `Needs(per_token=(name,))`."""
        chosen, rejected = self.tokens
        return chosen.column(name), rejected.column(name)

    @property
    def token_masks(self) -> tuple[Array, Array]:
        """Response masks of both sides, `[N, T]`."""
        return self.tokens[0].mask, self.tokens[1].mask

    @property
    def prompt_masks(self) -> tuple[Array, Array]:
        """Prompt masks of both sides, `[N, T]`."""
        return self.tokens[0].prompt, self.tokens[1].prompt


Reward = Callable[[Side], Array]


def pair_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Pair:
    """Gather both sides, and every further role that the method names."""
    chosen, rejected = (side(scores, batch, role, want) for role in ("chosen", "rejected"))
    others = {role: side(scores, batch, role, want) for role in other_roles(want.needs, batch)}
    present = pair_present(batch, chosen.length, rejected.length)
    return Pair(chosen, rejected, present, dict(batch.per_example), others, extra)


def other_roles(needs: Needs, batch: Batch) -> tuple[str, ...]:
    """Roles beyond the two sides: the required ones, and the optional ones that the data set has."""
    optional = tuple(role for role in needs.optional_roles if role in batch.roles)
    return tuple(role for role in needs.roles if role not in SIDES) + optional


def pair_present(batch: Batch, chosen_length: Array, rejected_length: Array) -> Bool[Array, "N"]:
    """True for examples that have both responses and at least one supervised token."""
    both = (batch.roles["chosen"] >= 0) & (batch.roles["rejected"] >= 0)
    return batch.present & both & (chosen_length + rejected_length > 0)


def pair_counts(batch: Batch, needs: Needs | None = None) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: pairs, supervised tokens of the chosen side, rows and tokens of further roles."""
    chosen, rejected = lengths(batch, "chosen"), lengths(batch, "rejected")
    present = pair_present(batch, chosen, rejected)
    counts = {
        "pairs": jnp.sum(present.astype(jnp.float32)),
        "chosen_tokens": jnp.sum(jnp.where(present, chosen, 0.0)),
    }
    for role in other_roles(needs, batch) if needs else ():
        length = jnp.where(present, lengths(batch, role), 0.0)
        counts |= {f"{role}s": jnp.sum((length > 0).astype(jnp.float32)), f"{role}_tokens": jnp.sum(length)}
    return counts


def reduce_terms(terms: Terms, counts: Counts) -> Float[Array, ""]:
    """Sum of the terms over their denominators; 0 for an empty step."""
    named = terms if isinstance(terms, Mapping) else {"pairs": terms}
    return sum(
        (jnp.sum(x) / jnp.maximum(counts[name], 1.0) for name, x in named.items()), start=jnp.zeros((), jnp.float32)
    )


def weighted(pair: Pair, terms: Terms) -> Terms:
    """The terms times each pair's WPO weight, where the networks were asked for what it needs."""
    chosen, rejected = pair.chosen, pair.rejected
    if "collision" not in chosen.sums:
        return terms
    collisions = (chosen.sums["collision"], rejected.sums["collision"])
    sides = (chosen.logps, rejected.logps, *collisions, chosen.length, rejected.length)
    weight = wpo_weight(*sides, where=pair.present)
    return {name: weight * x for name, x in terms.items()} if isinstance(terms, Mapping) else weight * terms


def pair_metrics(pair: Pair, reward: Reward) -> dict[str, Mean]:
    """TRL's metrics of a preference trainer, without `logits/*`, which would need another pass over the vocabulary.

    As there, entropy is per supervised token of both sides, and accuracy per supervised token of the chosen side.
    """
    chosen, rejected, here = reward(pair.chosen), reward(pair.rejected), pair.present
    return {
        "rewards/chosen": masked_mean(chosen, here),
        "rewards/rejected": masked_mean(rejected, here),
        "rewards/margins": masked_mean(chosen - rejected, here),
        "rewards/accuracies": masked_mean((chosen > rejected).astype(jnp.float32), here),
        "logps/chosen": masked_mean(pair.chosen.logps, here),
        "logps/rejected": masked_mean(pair.rejected.logps, here),
        "entropy": per_supervised_token("entropy", here, pair.chosen, pair.rejected),
        "mean_token_accuracy": per_supervised_token("correct", here, pair.chosen),
    }


def chosen_nll(pair: Pair) -> Mean:
    """Negative log-likelihood per supervised token of the chosen responses: TRL's `nll_loss`."""
    mean = per_supervised_token("logps", pair.present, pair.chosen)
    return Mean(-mean.total, mean.count)


def per_supervised_token(field: str, present: Bool[Array, "N ..."], *sides: Side) -> Mean:
    """Sum of a side's field over its number of supervised tokens."""

    def total(name: str) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(jnp.where(present, getattr(s, name), 0.0)) for s in sides]))

    return Mean(total(field), total("length"))


PAIR_SHAPE = Shape(pair_features, pair_counts, pair_metrics)
