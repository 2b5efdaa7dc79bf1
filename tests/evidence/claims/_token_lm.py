"""A small language whose marked slots alone decide the preference, a network that has learnt it, and real training.

Text: BOS, then neutral tokens of a sparse Markov chain; twice in a response the token MARK announces a slot, which
holds GOOD or BAD with equal probability. A policy that learns just the preference changes what it says after MARK and
leaves every neutral token alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.base import Method
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

VOCAB, BOS, MARK, GOOD, BAD, NEUTRAL = 24, 1, 2, 3, 4, 5
LENGTH = 25  # BOS, 20 neutral tokens, two marks, two slots
CONFIG = LFM2Config(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    layer_types=("conv", "full_attention"),
    initializer_range=0.1,
)
SCORER = Scorer(CONFIG)
Tree = Any


def chain(rng: np.random.Generator) -> np.ndarray:
    """Transition matrix of the neutral tokens, a few likely successors each."""
    logits = 2.0 * rng.standard_normal((VOCAB - NEUTRAL, VOCAB - NEUTRAL))
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True)


def texts(rng: np.random.Generator, p: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`[n, LENGTH]` tokens, and where their two slots are."""
    neutral = np.empty((n, 20), np.int32)
    state = rng.integers(len(p), size=n)
    for k in range(20):  # the next state by inverting the cumulated probabilities
        state = np.minimum((rng.random((n, 1)) > np.cumsum(p, axis=1)[state]).sum(1), len(p) - 1)
        neutral[:, k] = state + NEUTRAL
    tokens = np.full((n, LENGTH), BOS, np.int32)
    for row, words in zip(tokens, neutral, strict=True):
        first, second = np.sort(rng.choice(np.arange(1, 21), 2, replace=False))
        one, other = rng.integers(GOOD, BAD + 1, 2)
        row[1:] = [*words[:first], MARK, one, *words[first:second], MARK, other, *words[second:]]
    return tokens, np.isin(tokens, (GOOD, BAD))


def decided(tokens: np.ndarray, slots: np.ndarray, word: int) -> np.ndarray:
    """The same texts with this word in every slot."""
    return np.where(slots, word, tokens).astype(np.int32)


def pair_batch(chosen: np.ndarray, rejected: np.ndarray, labels: dict[str, np.ndarray] | None = None) -> Batch:
    """One response per row, chosen and rejected in turn; `labels` are `[2 n, LENGTH]` in that order."""
    tokens = np.stack([chosen, rejected], axis=1).reshape(-1, chosen.shape[1])
    rows, length = tokens.shape
    mask = np.broadcast_to(np.arange(length) > 0, tokens.shape)
    roles = {"chosen": np.zeros(rows // 2, np.int32), "rejected": np.ones(rows // 2, np.int32)}
    return _batch(tokens, mask, roles, 2, labels or {})


def text_batch(tokens: np.ndarray) -> Batch:
    """One text per row."""
    mask = np.broadcast_to(np.arange(tokens.shape[1]) > 0, tokens.shape)
    return _batch(tokens, mask, {"text": np.zeros(len(tokens), np.int32)}, 1, {})


def _batch(
    tokens: np.ndarray, mask: np.ndarray, roles: dict[str, np.ndarray], block_rows: int, labels: dict[str, np.ndarray]
) -> Batch:
    return Batch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.ones(tokens.shape, jnp.int32),
        positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        masks={"completion": jnp.asarray(mask), "prompt": jnp.zeros(tokens.shape, bool)},
        per_token={k: jnp.asarray(v, jnp.int32) for k, v in labels.items()},
        per_segment={},
        per_example={},
        roles={k: jnp.asarray(v) for k, v in roles.items()},
        example_id=jnp.arange(len(tokens) // block_rows, dtype=jnp.int32),
        block_rows=block_rows,
        slots=1,
        max_segment=tokens.shape[1],
    )


@functools.cache
def pretrainer(rate: float) -> tuple[Any, Any, Any]:
    """Objective, optimiser and compiled step of pretraining."""
    objective, optimizer = next_token(SCORER, roles=("text",)), optax.adam(rate)
    return objective, optimizer, jax.jit(make_step(objective, optimizer, optax.constant_schedule(rate)))


def pretrained(tokens: np.ndarray, seed: int, *, steps: int, rate: float = 3e-3) -> Tree:
    """A network that has learnt these texts, 64 a step."""
    objective, optimizer, step = pretrainer(rate)
    params = {"model": init_params(param_table(CONFIG), jax.random.key(seed))}
    state = build_state(params, optimizer, objective, jax.random.key(seed))
    batches = [text_batch(part) for part in np.split(tokens, len(tokens) // 64)]
    for i in range(steps):
        state, _ = step(state, {}, batches[i % len(batches)])
    return state.params["model"]


@functools.cache
def trainer(method: Method, rate: float) -> tuple[Any, Any, Any]:
    """Objective, optimiser and compiled step of a preference method."""
    objective, optimizer = method.build(SCORER), optax.adam(rate)
    return objective, optimizer, jax.jit(make_step(objective, optimizer, optax.constant_schedule(rate)))


def train(
    method: Method,
    reference: Tree,
    batches: list[Batch],
    seed: int,
    *,
    steps: int,
    rate: float,
    watch: Callable[[Tree], Any] = lambda params: None,
    done: Callable[[Any], bool] = lambda seen: False,
) -> tuple[Tree, list[Any]]:
    """Train from the reference; `watch(params)` before the first step and after each, until `done(its value)`."""
    objective, optimizer, step = trainer(method, rate)
    tables = method.extra_tables(CONFIG)
    extra = {k: init_params(t, jax.random.fold_in(jax.random.key(seed), i)) for i, (k, t) in enumerate(tables.items())}
    state = build_state({"model": reference, **extra}, optimizer, objective, jax.random.key(seed))
    seen = [watch(state.params)]
    for i in range(steps):
        state, _ = step(state, {"reference": reference}, batches[i % len(batches)])
        seen.append(watch(state.params))
        if done(seen[-1]):
            break
    return state.params, seen


@jax.jit
def changes(model: Tree, reference: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Per token `[R, S]`: log-ratio, and KL(reference || policy)."""
    stats, ref_logps, kl = SCORER.token_stats_and_kl(model, reference, batch)
    return stats.logps - ref_logps, kl


def side_effects(reference: Tree, batch: Batch, slots: np.ndarray) -> Callable[[Tree], np.ndarray]:
    """`params -> (margin per slot, KL per shared token, |log-ratio| per shared token)` on pairs that differ in slots.

    Args:
      slots: `[2 n, LENGTH]`, the rows in the batch's order.
    """
    shared = np.asarray(batch.masks["completion"]) & ~slots
    sign = np.where(np.arange(len(slots)) % 2 == 0, 1.0, -1.0)[:, None]

    def watch(params: Tree) -> np.ndarray:
        ratio, kl = (np.asarray(x, np.float64) for x in changes(params["model"], reference, batch))
        margin = 2 * np.mean((sign * ratio)[slots])
        return np.array([margin, np.mean(kl[shared]), np.mean(np.abs(ratio[shared]))])

    return watch


def at_margin(seen: list[np.ndarray], margin: float) -> np.ndarray:
    """Side effects where a run first reaches the margin, interpolated between steps; NaN if it never does."""
    for before, after in itertools.pairwise(seen):
        if before[0] < margin <= after[0]:
            share = (margin - before[0]) / (after[0] - before[0])
            return before + share * (after - before)
    return np.full(3, np.nan)


def method(name: str, **settings: Any) -> Method:
    """A method of the catalogue."""
    return METHODS[name](**settings)
