"""How objectives run a language model on a packed batch.

All per-token results are in *target* coordinates: entry s scores token s given the tokens before it in its segment, and
is 0 at the first token of a segment and at padding. The shift by one is cut at segment borders here, once, for every
objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from jaxpo.data.packing.batch import CONTINUES, Batch
from jaxpo.data.tokens.media import MEDIA
from jaxpo.data.tokens.per_token import KEY
from jaxpo.losses import vocab
from jaxpo.models.family import TextConfig, family, output_matrix
from jaxpo.models.heads import value
from jaxpo.models.language import Inputs, Tap
from jaxpo.ops.dropout import dropout
from jaxpo.ops.head import map_vocab

Tree = Any
POOLED = 1
"""Folded into a step's key, for draws other than the embedding's."""


@struct.dataclass
class TokenStats:
    """Per-token quantities, float32 `[R, S]`, target coordinates.

    Attributes:
      logps: log p(token s | earlier tokens of its segment), nats.
      entropy: of the predictive distribution, nats; carries no gradient.
      correct: 1 where the token is the argmax; carries no gradient.
      columns: what was asked for besides: "collision", log sum_v pi(v)^2, the log-probability that two draws agree;
        carries no gradient.
    """

    logps: Float[Array, "R S"]
    entropy: Float[Array, "R S"]
    correct: Float[Array, "R S"]
    columns: dict[str, Float[Array, "R S"]] = struct.field(default_factory=dict)


def has_predecessor(batch: Batch) -> Bool[Array, "R S"]:
    """True at tokens that continue a segment: those that can be scored."""
    same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    return jnp.pad(same & (batch.segment_ids[:, 1:] > 0), ((0, 0), (1, 0)))


def row_keys(rng: Array, batch: Batch) -> Key[Array, "R"]:
    """A key per row from the step's: by its block's first example and the row's place in the block.

    Blocks stay whole in microbatches and shards, so a row's key is the same in each of them.
    """
    ids = batch.example_id.reshape(batch.blocks, -1)
    first = jnp.min(jnp.where(ids < 0, jnp.iinfo(jnp.int32).max, ids), axis=1)
    blocks = jax.vmap(jax.random.fold_in, (None, 0))(rng, first)
    of_block = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(blocks, jnp.arange(batch.block_rows))
    return of_block.reshape(-1)


def inputs_of(batch: Batch) -> Inputs:
    """What a language family reads of a batch.

    Where a column `per_token["key"]` says so (0), attention sees a position as no key; `per_segment["continues"]`
    says which segments continue another.
    """
    is_key = batch.per_token.get(KEY)
    key_ids = None if is_key is None else jnp.where(is_key > 0, batch.segment_ids, 0)
    return Inputs(
        batch.tokens,
        batch.segment_ids,
        batch.positions,
        key_ids,
        batch.media,
        batch.per_token.get(MEDIA) if batch.media else None,
        batch.per_segment.get(CONTINUES),
        batch.blocks,
        batch.reach or batch.max_segment,
    )


def next_tokens(batch: Batch) -> Array:
    """`[R, S]`: the token after each position (0 after the last)."""
    return jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1)))


def to_targets(x: Float[Array, "R S"], batch: Batch) -> Float[Array, "R S"]:
    """Move predictions made at position s - 1 to the token s that they are about; 0 where there is none."""
    shifted = jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(has_predecessor(batch), shifted, 0.0)


def token_stats(logits: Array, targets: Array) -> TokenStats:
    """The term of `Scorer.token_stats`: of logits `[..., V]`, at the position of the logits."""
    frozen = jax.lax.stop_gradient(logits)
    return TokenStats(vocab.log_prob(logits, targets), vocab.entropy(frozen), vocab.is_argmax(frozen, targets))


def _stats_and_collision(logits: Array, targets: Array) -> TokenStats:
    collision = vocab.log_collision(jax.lax.stop_gradient(logits))
    return token_stats(logits, targets).replace(columns={"collision": collision})  # type: ignore[attr-defined]


def _stats_and_kl(collision: bool) -> Callable[[Array, Array, Array], tuple[TokenStats, Array, Array]]:
    stats = _stats_and_collision if collision else token_stats

    def term(policy: Array, reference: Array, targets: Array) -> tuple[TokenStats, Array, Array]:
        kl = vocab.kl_divergence(reference, policy)
        return stats(policy, targets), vocab.log_prob(reference, targets), kl

    return term


def per_token(scorer: Scorer, kind: str) -> Callable[[Tree, Batch], Float[Array, "R S"]]:
    """`(params, batch)` -> what is read of every token of a network of kind "logps" or "values"."""
    return scorer.values if kind == "values" else scorer.logps


@dataclass(frozen=True)
class Scorer:
    """A model configuration together with how it is evaluated; the parameters come with every call.

    Attributes:
      config: architecture.
      dtype: compute dtype ("float32" or "bfloat16"); log-probs are float32 either way.
      remat, attention: passed to the backbone.
      head_chunk: positions per vocabulary-head chunk; None chooses.
      embedding_dropout: rate on the embedding's output, wherever a call passes `rng`.
      pooled_dropout: rate on the final states that the heads of a reward model read, likewise.
      experts: implementation name of the grouped product of a mixture of experts.
      conv: implementation name of the short convolution.
      scan: whether repeated groups of layers run in loops; None = the family chooses.
      temperature: divides the logits of every distribution that is read.
      vocab: distributions are over the first so many ids, those that a tokenizer has and a sampler draws; None = all.
    """

    config: TextConfig
    dtype: str = "float32"
    remat: str = "none"
    attention: str | None = None
    head_chunk: int | None = None
    embedding_dropout: float = 0.0
    experts: str | None = None
    conv: str | None = None
    scan: bool | None = None
    pooled_dropout: float = 0.0
    temperature: float = 1.0
    vocab: int | None = None

    def run(
        self, params: Tree, batch: Batch, rng: Array | None = None, tap: Tap | None = None
    ) -> tuple[Float[Array, "R S D"], dict[str, Any]]:
        """Final hidden states (after the last norm), and what the family leaves beside them, `"taps"` apart.

        Args:
          rng: the step's key; None in evaluation and for references.
          tap: see `jaxpo.models.language.Tap`; what it returned is `aux["taps"]`.
        """
        keys = None if rng is None or not self.embedding_dropout else row_keys(rng, batch)
        hidden, aux = family(self.config).forward(
            params,
            inputs_of(batch),
            config=self.config,
            dtype=jnp.dtype(self.dtype),
            tap=tap,
            remat=self.remat,
            attention=self.attention,
            embedding_dropout=self.embedding_dropout,
            row_keys=keys,
            experts=self.experts,
            conv=self.conv,
            scan=self.scan,
        )
        return hidden, aux if tap is not None else {name: x for name, x in aux.items() if name != "taps"}

    def pooled(self, hidden: Float[Array, "R S D"], batch: Batch, rng: Array | None = None) -> Float[Array, "R S D"]:
        """Final states as heads read them; another draw than the embedding's where `rng` is that of `run`."""
        if rng is None or not self.pooled_dropout:
            return hidden
        return dropout(hidden, row_keys(jax.random.fold_in(rng, POOLED), batch), self.pooled_dropout)

    def with_output(self, params: Tree) -> dict[str, Any]:
        """The parameters, with the output matrix as "output" where the family has one."""
        return (
            {**params, "output": self.unembedding(params["model"])} if family(self.config).unembedding else {**params}
        )

    def hidden(self, params: Tree, batch: Batch, rng: Array | None = None) -> Float[Array, "R S D"]:
        """The hidden states of `run` alone, for networks that are not trained."""
        return self.run(params, batch, rng)[0]

    def taps(self, params: Tree, batch: Batch, tap: Tap) -> dict[str, Array]:
        """What `tap(name, x)` made of the network's activations, by name; no head is run."""
        return self.run(params, batch, tap=tap)[1]["taps"]

    def unembedding(self, params: Tree) -> Float[Array, "V D"]:
        """The output matrix: `logits = hidden @ W^T`."""
        whole = output_matrix(params, self.config)
        return whole if self.vocab is None else whole[: self.vocab]

    def alike(self, other: Scorer) -> Scorer:
        """Another network's scorer, whose distributions are those of this one: of its temperature, over its ids."""
        return replace(other, temperature=self.temperature, vocab=self.vocab)

    def _tempered(self, hidden: Float[Array, "R S D"]) -> Float[Array, "R S D"]:
        """Hidden states whose logits are those of the temperature: the head is linear."""
        return hidden if self.temperature == 1.0 else hidden / self.temperature

    def token_stats(
        self,
        params: Tree,
        batch: Batch,
        hidden: Float[Array, "R S D"] | None = None,
        *,
        collision: bool = False,
        rng: Array | None = None,
    ) -> TokenStats:
        """Log-prob, entropy and argmax accuracy of every token; `hidden` when it has been computed already."""
        hidden = self._tempered(self.hidden(params, batch, rng) if hidden is None else hidden)
        term = _stats_and_collision if collision else token_stats
        stats = map_vocab(term, ((self.unembedding(params), hidden),), next_tokens(batch), chunk=self.head_chunk)
        return jax.tree.map(lambda x: to_targets(x, batch), stats)

    def logps(self, params: Tree, batch: Batch, hidden: Float[Array, "R S D"] | None = None) -> Float[Array, "R S"]:
        """Log-prob of every token, alone: cheaper than `token_stats` where only these are wanted."""
        hidden = self.hidden(params, batch) if hidden is None else hidden
        streams = ((self.unembedding(params), self._tempered(hidden)),)
        return to_targets(map_vocab(vocab.log_prob, streams, next_tokens(batch), chunk=self.head_chunk), batch)

    def values(self, params: Tree, batch: Batch) -> Float[Array, "R S"]:
        """Output of the head `params["value"]` at every token, which it has read; 0 at padding."""
        values = value(params["value"], self.hidden(params["model"], batch))
        return jnp.where(batch.segment_ids > 0, values, 0.0)

    def token_stats_and_kl(
        self,
        params: Tree,
        reference: Tree,
        batch: Batch,
        hidden: Float[Array, "R S D"] | None = None,
        *,
        collision: bool = False,
        reference_scorer: Scorer | None = None,
    ) -> tuple[TokenStats, Array, Array]:
        """`(policy stats, reference log-probs, KL(reference || policy))`, `[R, S]`; no gradient to the reference.

        Args:
          reference_scorer: of a reference with its own architecture; None = as the policy.
        """
        frozen, other = jax.lax.stop_gradient(reference), reference_scorer or self
        streams = (
            (self.unembedding(params), self._tempered(self.hidden(params, batch) if hidden is None else hidden)),
            (other.unembedding(frozen), other._tempered(jax.lax.stop_gradient(other.hidden(frozen, batch)))),
        )
        found = map_vocab(_stats_and_kl(collision), streams, next_tokens(batch), chunk=self.head_chunk)
        return jax.tree.map(lambda x: to_targets(x, batch), found)
