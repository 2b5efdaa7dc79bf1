"""What preference objectives read from the networks: sums per response, and per-token rows where needed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.batch import Batch, rows_of, take, unpack
from jaxpo.data.needs import Needs
from jaxpo.objectives.encode import Scorer, TokenStats

Tree = Any


@struct.dataclass
class Tokens:
    """One role's responses, one per row: `[N, T]` each.

    Attributes:
      logps: log-probs in nats, 0 beyond the segment.
      ref_logps: under the reference; zeros without one.
      mask: True on supervised (response) tokens.
      prompt: True on prompt tokens except the first of the segment.
    """

    logps: Float[Array, "N T"]
    ref_logps: Float[Array, "N T"]
    mask: Bool[Array, "N T"]
    prompt: Bool[Array, "N T"]


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
      tokens: per-token rows, for methods that need them; else an empty tuple (a pytree without leaves).
    """

    logps: Float[Array, "N ..."]
    ref_logps: Float[Array, "N ..."]
    length: Float[Array, "N ..."]
    entropy: Float[Array, "N ..."]
    correct: Float[Array, "N ..."]
    kl: Float[Array, "N ..."] | tuple[()] = ()
    tokens: Tokens | tuple[()] = ()

    @property
    def log_ratio(self) -> Float[Array, "N ..."]:
        """rho = P - R."""
        return self.logps - self.ref_logps


@struct.dataclass
class Scores:
    """Per-token results of the networks on a packed microbatch, `[R, S]`, target coordinates."""

    stats: TokenStats
    ref_logps: Float[Array, "R S"]
    kl: Float[Array, "R S"] | tuple[()] = ()


def score(scorer: Scorer, params: Tree, frozen: Tree, batch: Batch, needs: Needs, cached_reference: bool) -> Scores:
    """Run the policy and whatever reference the method needs; no gradient reaches the reference."""
    if needs.reference == "vocab":
        return Scores(*scorer.token_stats_and_kl(params["model"], frozen["reference"], batch))
    stats = scorer.token_stats(params["model"], batch)
    if needs.reference == "none":
        return Scores(stats, jnp.zeros_like(stats.logps))
    if cached_reference:
        return Scores(stats, batch.per_token["ref_logps"].astype(jnp.float32))
    return Scores(stats, jax.lax.stop_gradient(scorer.logps(frozen["reference"], batch)))


def segment_sums(x: Float[Array, "R S"], mask: Bool[Array, "R S"], batch: Batch) -> Float[Array, "R M"]:
    """Sum over each segment's tokens under the mask."""
    return jnp.sum(unpack(jnp.where(mask, x, 0.0).astype(jnp.float32), batch), axis=-1)


def lengths(batch: Batch, role: str) -> Float[Array, "N ..."]:
    """Supervised tokens of each example's segment; 0 where it is absent."""
    mask = batch.masks["completion"]
    return take(segment_sums(jnp.ones(mask.shape, jnp.float32), mask, batch), batch.roles[role], batch)


def side(scores: Scores, batch: Batch, role: str, *, tokens: bool = False) -> Side:
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
        tokens=_tokens(scores, batch, role) if tokens else (),
    )


def _tokens(scores: Scores, batch: Batch, role: str) -> Tokens:
    index = batch.roles[role]
    flag = lambda m: rows_of(m.astype(jnp.float32), index, batch) > 0  # noqa: E731
    return Tokens(
        logps=rows_of(scores.stats.logps, index, batch),
        ref_logps=rows_of(scores.ref_logps, index, batch),
        mask=flag(batch.masks["completion"]),
        prompt=flag(batch.masks["prompt"]),
    )
