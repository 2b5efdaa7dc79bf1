"""What preference objectives read from the networks: sums per response, and per-token rows where needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, rows_of, take
from jaxpo.data.rows.needs import REFERENCE, Needs, recorded_column
from jaxpo.objectives.encode import Scorer, TokenStats, per_token

Tree = Any


@struct.dataclass
class Tokens:
    """One role's responses, one per row: `[N, T]` each, `[N, K, T]` for lists.

    Attributes:
      logps: log-probs in nats, 0 beyond the segment.
      ref_logps: under the reference; zeros without one.
      mask: True on supervised (response) tokens.
      prompt: True on prompt tokens except the first of the segment.
      columns: what the method asks for besides: "kl", KL(reference || policy) at each token, with a two-model
        vocabulary term; the per-token columns that its needs name ("phrase", "step": int32, 0 = none); "NAME_logps" and
        "NAME_values" of further networks, no gradient, where a value is at the token that was read last.
    """

    logps: Float[Array, "N *K T"]
    ref_logps: Float[Array, "N *K T"]
    mask: Bool[Array, "N *K T"]
    prompt: Bool[Array, "N *K T"]
    columns: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def kl(self) -> Float[Array, "N *K T"]:
        """KL(reference || policy) at each token."""
        if "kl" not in self.columns:
            raise ValueError('KLs exist only for methods that read "vocab" of the reference')
        return self.columns["kl"]

    def column(self, name: str) -> Array:
        """A per-token column of the batch."""
        if name not in self.columns:
            raise ValueError(f'no column "{name}": the method does not name it in Needs(per_token=...)')
        return self.columns[name]


@struct.dataclass
class Side:
    """One role of every example, summed over its supervised tokens: `[N]`, or `[N, K]` for lists; 0 where absent.

    Attributes:
      logps: P, nats.
      ref_logps: R under the reference, no gradient; zeros without one.
      length: number of supervised tokens, float32.
      entropy: summed entropy of the predictive distributions, nats, no gradient.
      correct: number of tokens that are the argmax, no gradient.
      sums: further sums: "kl", KL(reference || policy), with a two-model vocabulary term; "collision",
        log sum_v pi(v)^2, no gradient, under WPO weighting; "NAME_logps" of further networks, nats, no gradient.
      rows: per-token rows, for methods that set `TOKENS = True`; `tokens` reads them.
    """

    logps: Float[Array, "N ..."]
    ref_logps: Float[Array, "N ..."]
    length: Float[Array, "N ..."]
    entropy: Float[Array, "N ..."]
    correct: Float[Array, "N ..."]
    sums: dict[str, Float[Array, "N ..."]] = struct.field(default_factory=dict)
    rows: Tokens | None = None

    @property
    def log_ratio(self) -> Float[Array, "N ..."]:
        """rho = P - R."""
        return self.logps - self.ref_logps

    @property
    def kl(self) -> Float[Array, "N ..."]:
        """Summed KL(reference || policy)."""
        if "kl" not in self.sums:
            raise ValueError('KL sums exist only for methods that read "vocab" of the reference')
        return self.sums["kl"]

    @property
    def tokens(self) -> Tokens:
        """The per-token rows."""
        if self.rows is None:
            raise ValueError("the method does not set TOKENS = True")
        return self.rows


@struct.dataclass
class Scores:
    """Results of the networks on a packed microbatch, `[R, S]` in target coordinates.

    Attributes:
      columns: "kl", KL(reference || policy), with a two-model vocabulary term; "NAME_logps" and "NAME_values" of the
        networks other than the reference.
      states: `[R, S, D]` the policy's final hidden states, in *prediction* coordinates (position s predicts token
        s + 1), for methods that set `HIDDEN = True`; `hidden` reads them.
      aux: what the policy's forward pass left beside them, for whoever wraps the objective.
    """

    stats: TokenStats
    ref_logps: Float[Array, "R S"]
    columns: dict[str, Float[Array, "R S"]] = struct.field(default_factory=dict)
    states: Float[Array, "R S D"] | None = None
    aux: dict[str, Any] = struct.field(default_factory=dict)

    @property
    def hidden(self) -> Float[Array, "R S D"]:
        """The policy's final hidden states."""
        if self.states is None:
            raise ValueError("the method does not set HIDDEN = True")
        return self.states


@dataclass(frozen=True)
class Wanted:
    """What a method reads from the networks beyond log-probs per response.

    Attributes:
      needs: of the method.
      recorded: names of the networks whose numbers come with the batch instead of from `frozen[name]`.
      tokens: per-token rows of every role.
      hidden: the policy's final hidden states.
      collision: the collision probability of the predictive distributions, for WPO's weights.
      scorers: how the networks are run that have an architecture of their own.
    """

    needs: Needs
    recorded: frozenset[str] = frozenset()
    tokens: bool = False
    hidden: bool = False
    collision: bool = False
    scorers: Mapping[str, Scorer] = field(default_factory=dict)


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
    """Run the policy and whatever networks the method reads; no gradient and no dropout reaches those."""
    hidden, aux = scorer.run(params["model"], batch, rng)
    kept = hidden if want.hidden else None
    kind = want.needs.kind(REFERENCE)
    if kind == "vocab":
        stats, ref_logps, kl = scorer.token_stats_and_kl(
            params["model"],
            frozen[REFERENCE],
            batch,
            hidden,
            collision=want.collision,
            reference_scorer=want.scorers.get(REFERENCE),
        )
        return Scores(stats, ref_logps, {"kl": kl, **further(scorer, frozen, batch, want)}, kept, aux)
    stats = scorer.token_stats(params["model"], batch, hidden, collision=want.collision)
    ref_logps = read(scorer, frozen, batch, want, REFERENCE) if kind == "logps" else jnp.zeros_like(stats.logps)
    return Scores(stats, ref_logps, further(scorer, frozen, batch, want), kept, aux)


def read(scorer: Scorer, frozen: Tree, batch: Batch, want: Wanted, network: str) -> Float[Array, "R S"]:
    """A network's log-probs or values: those that the batch carries, or computed now."""
    kind = want.needs.kind(network)
    if network in want.recorded:
        return batch.per_token[recorded_column(network, kind)].astype(jnp.float32)
    return jax.lax.stop_gradient(per_token(want.scorers.get(network, scorer), kind)(frozen[network], batch))


def further(scorer: Scorer, frozen: Tree, batch: Batch, want: Wanted) -> dict[str, Float[Array, "R S"]]:
    """Log-probs and values of the networks other than the reference, by the name of their column."""
    return {
        recorded_column(network, kind): read(scorer, frozen, batch, want, network)
        for network, kind in want.needs.networks
        if network != REFERENCE and kind in ("logps", "values")
    }


def segment_sums(x: Float[Array, "R S"], mask: Bool[Array, "R S"], batch: Batch) -> Float[Array, "R M"]:
    """Sum over each segment's tokens under the mask.

    A comparison of every position with every slot, which is fused into the sum: where positions are spread over
    devices, these add up `[R, M]`, and no position leaves its device.
    """
    own = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    return jnp.sum(jnp.where(own & mask[:, None, :], x.astype(jnp.float32)[:, None, :], 0.0), axis=-1)


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
        sums={
            name: total(x)
            for name, x in (scores.columns | scores.stats.columns).items()
            if not name.endswith("_values")
        },
        rows=_tokens(scores, batch, role, want.needs.per_token) if want.tokens else None,
    )


def _tokens(scores: Scores, batch: Batch, role: str, per_token: tuple[str, ...]) -> Tokens:
    index = batch.roles[role]
    flag = lambda m: rows_of(m.astype(jnp.float32), index, batch) > 0  # noqa: E731
    return Tokens(
        logps=rows_of(scores.stats.logps, index, batch),
        ref_logps=rows_of(scores.ref_logps, index, batch),
        mask=flag(batch.masks["completion"]),
        prompt=flag(batch.masks["prompt"]),
        columns={
            name: rows_of(x, index, batch)
            for name, x in (scores.columns | {name: batch.per_token[name] for name in per_token}).items()
        },
    )
