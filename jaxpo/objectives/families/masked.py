"""Masked language modelling: some tokens of a text are hidden, and a model that looks both ways tells them.

Which ones is drawn from the step's key, the example's number and the place in its text, so that neither packing nor
microbatches nor devices change it, and a step that is taken again hides the same; at evaluation always the same ones.
How many is not drawn, so that the denominators of a step are known before its networks run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.packing.batch import Batch
from jaxpo.data.tokens.words import WORD
from jaxpo.objectives.base import Counts, Mean, Needs, Objective, Out, Tree
from jaxpo.objectives.encode import Scorer, token_stats
from jaxpo.objectives.families.denoising import EVALUATION
from jaxpo.objectives.methods.options import Ids
from jaxpo.ops.head import map_vocab

DROPPED = 2**32 - 1
"""Folded into a step's key for the embedding's dropout: no example has that number, by which masks are drawn."""


@dataclass(frozen=True)
class Masking:
    """How much is hidden, and how.

    Attributes:
      rate: share of a text's tokens that are chosen, of each text with any at least one.
      mask_share, random_share: shares of the chosen ones that become the mask, and some other token; the rest stay as
        they are, and are told all the same.
      whole_words: words are chosen, all tokens of each; a word weighs as much as any other.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False


@struct.dataclass
class Units:
    """What may be chosen: single tokens, or words.

    Attributes:
      first: `[R, S]` True at the first token of each.
      at: `[R, S]` place of the first token of the unit that a token belongs to.
      inside: `[R, S]` False at special tokens and padding.
      number: `[R, M]` units of each text to choose.
    """

    first: Bool[Array, "R S"]
    at: Int[Array, "R S"]
    inside: Bool[Array, "R S"]
    number: Int[Array, "R M"]


@struct.dataclass
class Hidden:
    """Texts some of whose tokens are hidden.

    Attributes:
      tokens: `[R, S]` what the model reads.
      chosen: `[R, S]` True where it is asked.
      weight: `[R, S]` 1 / (tokens of the unit) there, else 0.
    """

    tokens: Int[Array, "R S"]
    chosen: Bool[Array, "R S"]
    weight: Float[Array, "R S"]


def units_of(batch: Batch, masking: Masking) -> Units:
    """The units of each text, and how many are chosen: `max(1, floor(rate n + 1/2))` of n, 0 of none (BERT's code)."""
    word = jnp.where(batch.segment_ids > 0, batch.per_token[WORD], 0)
    inside = word > 0
    before = jnp.pad(word[:, :-1], ((0, 0), (1, 0)))
    goes_on = (batch.positions > 0) & (word == before) if masking.whole_words else jnp.zeros_like(inside)
    first = inside & ~goes_on
    places = jnp.broadcast_to(jnp.arange(word.shape[1]), word.shape)
    at = jnp.maximum(jax.lax.cummax(jnp.where(first, places, -1), axis=1), 0)
    own = batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]
    count = jnp.sum(own & first[:, None, :], axis=-1)
    share = jnp.floor(masking.rate * count + 0.5).astype(jnp.int32)
    return Units(first, at, inside, jnp.where(count > 0, jnp.maximum(share, 1), 0))


def hide(batch: Batch, rng: Array | None, masking: Masking, ids: Ids) -> Hidden:
    """Choose units of each text without replacement, and put what they become in their places."""
    units = units_of(batch, masking)
    draws = _draws(batch, jax.random.key(EVALUATION) if rng is None else rng)
    # Sorted by text and draw, the units of a text stand together: those in front are chosen.
    slot = jnp.where(units.first, batch.segment_ids, batch.slots + 1)
    order = jnp.lexsort((draws[..., 0], slot), axis=1)
    rank = jnp.argsort(order, axis=1, stable=True)
    earlier = jnp.sum(slot[:, None, :] < jnp.arange(1, batch.slots + 1)[None, :, None], axis=-1)
    own = jnp.maximum(batch.segment_ids - 1, 0)
    picked = units.first & (
        rank - jnp.take_along_axis(earlier, own, axis=1) < jnp.take_along_axis(units.number, own, 1)
    )
    chosen = units.inside & jnp.take_along_axis(picked, units.at, axis=1)
    rows = jnp.arange(batch.rows)[:, None]
    length = jnp.zeros(batch.tokens.shape, jnp.float32).at[rows, units.at].add(units.inside.astype(jnp.float32))
    weight = jnp.where(chosen, 1.0 / jnp.maximum(jnp.take_along_axis(length, units.at, axis=1), 1.0), 0.0)
    ordinary = jnp.asarray(ids.ordinary, jnp.int32)
    other = ordinary[jnp.minimum((draws[..., 2] * len(ids.ordinary)).astype(jnp.int32), len(ids.ordinary) - 1)]
    fate = draws[..., 1]
    masked = chosen & (fate < masking.mask_share)
    swapped = chosen & ~masked & (fate < masking.mask_share + masking.random_share)
    tokens = jnp.where(masked, ids.mask, jnp.where(swapped, other, batch.tokens)).astype(batch.tokens.dtype)
    return Hidden(tokens, chosen, weight)


def _draws(batch: Batch, rng: Array) -> Float[Array, "R S 3"]:
    """Uniform numbers of each token: a function of the key, its example, and its place in the text."""
    index = batch.roles["text"].reshape(batch.blocks, -1)
    numbers = batch.example_id.reshape(batch.blocks, -1)
    size = batch.block_rows * batch.slots
    table = jnp.full((batch.blocks, size), -1, jnp.int32)
    blocks = jnp.arange(batch.blocks)[:, None]
    table = table.at[blocks, jnp.where(index >= 0, index, size)].set(numbers, mode="drop")
    of_slot = table.reshape(batch.rows, batch.slots)
    example = jnp.take_along_axis(of_slot, jnp.maximum(batch.segment_ids - 1, 0), axis=1)

    def draw(example: Array, position: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(rng, example), position), (3,))

    return jax.vmap(jax.vmap(draw))(jnp.maximum(example, 0), batch.positions)


def masked_tokens(scorer: Scorer, masking: Masking, ids: Ids) -> Objective:
    """Mean negative log-likelihood of the chosen tokens, given all others.

        L = - sum_u (1 / |u|) sum_{t in u} log p(y_t | what is left of the text) / (number of chosen u)

    over the chosen units u, single tokens or words.

    Args:
      scorer: a model that looks both ways: its state at a hidden token tells that token.

    Returns:
      An uncoupled objective; metrics `masked_accuracy`, `entropy` over the chosen tokens, and `masked_share`, theirs of
      all that could be.

    Reference: Devlin et al. 2018, arXiv:1810.04805, section 3.1 and appendix A.1; whole words as in its released code.
    """

    def counts(batch: Batch) -> dict[str, Array]:
        return {"units": jnp.sum(units_of(batch, masking).number.astype(jnp.float32))}

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: Array | None) -> tuple[Tree, dict[str, Any]]:
        found = hide(batch, rng, masking, ids)
        read = batch.replace(tokens=found.tokens)  # type: ignore[attr-defined]
        hidden, aux = scorer.run(params["model"], read, None if rng is None else jax.random.fold_in(rng, DROPPED))
        streams = ((scorer.unembedding(params["model"]), hidden),)
        stats = map_vocab(token_stats, streams, batch.tokens, chunk=scorer.head_chunk)
        return {"stats": stats, "chosen": found.chosen, "weight": found.weight}, aux

    def loss(features: Tree, batch: Batch, carry: Tree, counts: Counts) -> Out:
        chosen, stats = features["chosen"].astype(jnp.float32), features["stats"]
        inside = (batch.segment_ids > 0) & (batch.per_token[WORD] > 0)
        metrics = {
            "entropy": Mean(jnp.sum(chosen * stats.entropy), jnp.sum(chosen)),
            "masked_accuracy": Mean(jnp.sum(chosen * stats.correct), jnp.sum(chosen)),
            "masked_share": Mean(jnp.sum(chosen), jnp.sum(inside.astype(jnp.float32))),
        }
        return Out(-jnp.sum(features["weight"] * stats.logps) / jnp.maximum(counts["units"], 1.0), metrics, {})

    return Objective("masked_lm", counts, encode, loss, needs=Needs(roles=("text",), per_token=(WORD,)))
