"""What preference objectives read from the networks: sums per response, and per-token rows where needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.packing.batch import Batch, rows_of, take, unpack
from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.encode import Scorer, TokenStats

Tree = Any


@struct.dataclass
class Tokens:
    """One role's responses, one per row: `[N, T]` each, `[N, K, T]` for lists.

    Attributes:
      logps: log-probs in nats, 0 beyond the segment.
      ref_logps: under the reference; zeros without one.
      mask: True on supervised (response) tokens.
      prompt: True on prompt tokens except the first of the segment.
      kl: KL(reference || policy) at each token, for methods with a two-model vocabulary term; else an empty tuple.
      labels: name -> int32, which phrase, step or item a token belongs to (0 = none).
    """

    logps: Float[Array, "N *K T"]
    ref_logps: Float[Array, "N *K T"]
    mask: Bool[Array, "N *K T"]
    prompt: Bool[Array, "N *K T"]
    kl: Float[Array, "N *K T"] | tuple[()] = ()
    labels: dict[str, Int[Array, "N *K T"]] = struct.field(default_factory=dict)


@struct.dataclass
class Side:
    """One role of every example, summed over its supervised tokens: `[N]`, or `[N, K]` for lists; 0 where absent.

    Attributes:
      logps: P, nats.
      ref_logps: R under the reference, no gradient; zeros without one.
      length: number of supervised tokens, float32.
      entropy: summed entropy of the predictive distributions, nats, no gradient.
      correct: number of tokens that are the argmax, no gradient.
      kl: summed KL(reference || policy), for methods with a two-model vocabulary term; else an empty tuple.
      collision: summed log sum_v pi(v)^2, no gradient, under WPO weighting; else an empty tuple.
      tokens: per-token rows, for methods that need them; else an empty tuple (a pytree without leaves).
    """

    logps: Float[Array, "N ..."]
    ref_logps: Float[Array, "N ..."]
    length: Float[Array, "N ..."]
    entropy: Float[Array, "N ..."]
    correct: Float[Array, "N ..."]
    kl: Float[Array, "N ..."] | tuple[()] = ()
    collision: Float[Array, "N ..."] | tuple[()] = ()
    tokens: Tokens | tuple[()] = ()

    @property
    def log_ratio(self) -> Float[Array, "N ..."]:
        """rho = P - R."""
        return self.logps - self.ref_logps


@struct.dataclass
class Scores:
    """Results of the networks on a packed microbatch, `[R, S]` in target coordinates.

    Attributes:
      hidden: `[R, S, D]` the policy's final hidden states, in *prediction* coordinates (position s predicts token
        s + 1), for methods that ask for them; else an empty tuple.
      aux: what the policy's forward pass left beside them, for whoever wraps the objective.
    """

    stats: TokenStats
    ref_logps: Float[Array, "R S"]
    kl: Float[Array, "R S"] | tuple[()] = ()
    hidden: Float[Array, "R S D"] | tuple[()] = ()
    aux: dict[str, Any] = struct.field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a method reads from the networks beyond log-probs per response.

    Attributes:
      needs: of the method.
      cached_reference: reference log-probs come with the batch instead of from `frozen["reference"]`.
      tokens: per-token rows of every role.
      hidden: the policy's final hidden states.
      collision: the collision probability of the predictive distributions, for WPO's weights.
    """

    needs: Needs
    cached_reference: bool = False
    tokens: bool = False
    hidden: bool = False
    collision: bool = False


@dataclass(frozen=True)
class Shape:
    """What the methods of one family share: how features are gathered, counted and reported.

    Attributes:
      features: `(scores, batch, want, extra) -> features`.
      counts: `(batch, needs) -> {name: scalar}`.
      metrics: `(features, reward) -> {name: Metric}`, under TRL's names.
    """

    features: Callable[[Scores, Batch, Wanted, dict[str, Array]], Any]
    counts: Callable[[Batch, Needs], dict[str, Array]]
    metrics: Callable[[Any, Callable[[Side], Array]], dict[str, Any]]


def score(scorer: Scorer, params: Tree, frozen: Tree, batch: Batch, want: Wanted, rng: Array | None = None) -> Scores:
    """Run the policy and whatever reference the method needs; no gradient and no dropout reaches the reference."""
    hidden, aux = scorer.run(params["model"], batch, rng)
    kept = hidden if want.hidden else ()
    if want.needs.reference == "vocab":
        stats, ref_logps, kl = scorer.token_stats_and_kl(
            params["model"], frozen["reference"], batch, hidden, collision=want.collision
        )
        return Scores(stats, ref_logps, kl, kept, aux)
    stats = scorer.token_stats(params["model"], batch, hidden, collision=want.collision)
    if want.needs.reference == "none":
        return Scores(stats, jnp.zeros_like(stats.logps), hidden=kept, aux=aux)
    if want.cached_reference:
        return Scores(stats, batch.per_token["ref_logps"].astype(jnp.float32), hidden=kept, aux=aux)
    return Scores(stats, jax.lax.stop_gradient(scorer.logps(frozen["reference"], batch)), hidden=kept, aux=aux)


def segment_sums(x: Float[Array, "R S"], mask: Bool[Array, "R S"], batch: Batch) -> Float[Array, "R M"]:
    """Sum over each segment's tokens under the mask."""
    return jnp.sum(unpack(jnp.where(mask, x, 0.0).astype(jnp.float32), batch), axis=-1)


def lengths(batch: Batch, role: str) -> Float[Array, "N ..."]:
    """Supervised tokens of each example's segment; 0 where it is absent."""
    mask = batch.masks["completion"]
    return take(segment_sums(jnp.ones(mask.shape, jnp.float32), mask, batch), batch.roles[role], batch)


def side(scores: Scores, batch: Batch, role: str, want: Wanted) -> Side:
    """Gather one role from the packed scores."""
    mask, index = batch.masks["completion"], batch.roles[role]

    def total(x: Float[Array, "R S"]) -> Float[Array, "N ..."]:
        return take(segment_sums(x, mask, batch), index, batch)

    return Side(
        logps=total(scores.stats.logps),
        ref_logps=total(scores.ref_logps),
        length=lengths(batch, role),
        entropy=total(scores.stats.entropy),
        correct=total(scores.stats.correct),
        kl=() if isinstance(scores.kl, tuple) else total(scores.kl),
        collision=() if isinstance(scores.stats.collision, tuple) else total(scores.stats.collision),
        tokens=_tokens(scores, batch, role, want.needs.labels) if want.tokens else (),
    )


def _tokens(scores: Scores, batch: Batch, role: str, labels: tuple[str, ...]) -> Tokens:
    index = batch.roles[role]
    flag = lambda m: rows_of(m.astype(jnp.float32), index, batch) > 0  # noqa: E731
    return Tokens(
        logps=rows_of(scores.stats.logps, index, batch),
        ref_logps=rows_of(scores.ref_logps, index, batch),
        mask=flag(batch.masks["completion"]),
        prompt=flag(batch.masks["prompt"]),
        kl=() if isinstance(scores.kl, tuple) else rows_of(scores.kl, index, batch),
        labels={name: rows_of(batch.per_token[name], index, batch) for name in labels},
    )
