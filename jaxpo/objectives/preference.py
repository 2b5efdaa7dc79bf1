"""Objectives over pairs: a chosen and a rejected response per example.

A pairwise method is one call of a pure loss on a `Pair`; counting, encoding, dividing and metrics are shared here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.batch import Batch
from jaxpo.data.needs import Needs
from jaxpo.objectives.base import Counts, Mean, Objective, Out, keep_carry, masked_mean, no_carry
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.preference_features import Side, Tokens, lengths, score, side

Tree = Any
Terms = Array | Mapping[str, Array]
"""Unreduced losses `[N]`: divided by the number of pairs, or, in a mapping, by the count each is named after."""


@struct.dataclass
class Pair:
    """The features of a pairwise method.

    Attributes:
      chosen, rejected: the two sides.
      present: `[N]` False where there is no pair; such entries must not count.
      columns: the batch's per-example columns.
    """

    chosen: Side
    rejected: Side
    present: Bool[Array, "N"]
    columns: dict[str, Array]

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
        """`K_w, K_l`, for methods that need `reference="vocab"`."""
        if isinstance(self.chosen.kl, tuple) or isinstance(self.rejected.kl, tuple):
            raise ValueError('KL sums exist only for methods with Needs(reference="vocab")')
        return self.chosen.kl, self.rejected.kl

    @property
    def lengths(self) -> tuple[Array, Array]:
        """`|y_w|, |y_l|` in tokens."""
        return self.chosen.length, self.rejected.length

    @property
    def tokens(self) -> tuple[Tokens, Tokens]:
        """The per-token rows of both sides, for objectives built with `tokens=True`."""
        if isinstance(self.chosen.tokens, tuple) or isinstance(self.rejected.tokens, tuple):
            raise ValueError("this objective was built without tokens=True")
        return self.chosen.tokens, self.rejected.tokens

    @property
    def token_logps(self) -> tuple[Array, Array, Array, Array]:
        """Per-token `P_w, P_l, R_w, R_l`, each `[N, T]`."""
        chosen, rejected = self.tokens
        return chosen.logps, rejected.logps, chosen.ref_logps, rejected.ref_logps

    @property
    def token_masks(self) -> tuple[Array, Array]:
        """Response masks of both sides, `[N, T]`."""
        return self.tokens[0].mask, self.tokens[1].mask

    @property
    def prompt_masks(self) -> tuple[Array, Array]:
        """Prompt masks of both sides, `[N, T]`."""
        return self.tokens[0].prompt, self.tokens[1].prompt


Reward = Callable[[Side], Array]


def implicit_reward(beta: float) -> Reward:
    """`beta (P - R)`; `beta P` for methods without a reference. What TRL logs as rewards."""
    return lambda s: beta * s.log_ratio


def pairwise(
    name: str,
    scorer: Scorer,
    loss: Callable[[Pair], Terms],
    *,
    needs: Needs,
    cached_reference: bool,
    reward: Reward,
    tokens: bool = False,
    coupled: bool = False,
    metrics: Callable[[Pair], dict[str, Mean]] | None = None,
) -> Objective:
    """An objective from a loss on pairs.

        step loss = sum_n L_n / pairs of the step    (or each named term over the count of its name)

    Args:
      name: of the method.
      scorer: how the networks are run.
      loss: pair -> `[N]`, or count name -> `[N]`; 0 where the pair is absent.
      needs: of the method.
      cached_reference: reference log-probs come with the batch instead of from `frozen["reference"]`.
      reward: side -> `[N]`, for the metrics alone.
      tokens: give the sides their per-token rows.
      coupled: the loss mixes pairs.
      metrics: more of them.
    """

    def evaluate(pair: Pair, batch: Batch, carry: Tree, counts: Counts) -> Out:
        more = metrics(pair) if metrics is not None else {}
        return Out(reduce_terms(loss(pair), counts), pair_metrics(pair, reward) | more, {})

    return stateful_pairwise(
        name, scorer, evaluate, needs=needs, cached_reference=cached_reference, tokens=tokens, coupled=coupled
    )


def stateful_pairwise(
    name: str,
    scorer: Scorer,
    loss: Callable[[Pair, Batch, Tree, Counts], Out],
    *,
    needs: Needs,
    cached_reference: bool,
    tokens: bool = False,
    coupled: bool = False,
    init_carry: Callable[[], Tree] = no_carry,
    after: Callable[[Tree, Tree], Tree] = keep_carry,
) -> Objective:
    """As `pairwise`, for methods that carry state: `loss` builds the `Out` (see `reduce_terms`, `pair_metrics`)."""

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: Array) -> Pair:
        scores = score(scorer, params, frozen, batch, needs, cached_reference)
        chosen, rejected = (side(scores, batch, role, tokens=tokens) for role in ("chosen", "rejected"))
        return Pair(chosen, rejected, pair_present(batch, chosen.length, rejected.length), dict(batch.per_example))

    return Objective(name, pair_counts, encode, loss, after, init_carry, needs, coupled)


def pair_present(batch: Batch, chosen_length: Array, rejected_length: Array) -> Bool[Array, "N"]:
    """True for examples that have both responses and at least one supervised token."""
    both = (batch.roles["chosen"] >= 0) & (batch.roles["rejected"] >= 0)
    return batch.present & both & (chosen_length + rejected_length > 0)


def pair_counts(batch: Batch) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: pairs, and supervised tokens of the chosen responses."""
    chosen, rejected = lengths(batch, "chosen"), lengths(batch, "rejected")
    present = pair_present(batch, chosen, rejected)
    return {
        "pairs": jnp.sum(present.astype(jnp.float32)),
        "chosen_tokens": jnp.sum(jnp.where(present, chosen, 0.0)),
    }


def reduce_terms(terms: Terms, counts: Counts) -> Float[Array, ""]:
    """Sum of the terms over their denominators; 0 for an empty step."""
    named = terms if isinstance(terms, Mapping) else {"pairs": terms}
    return sum(
        (jnp.sum(x) / jnp.maximum(counts[name], 1.0) for name, x in named.items()), start=jnp.zeros((), jnp.float32)
    )


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
