"""DOVE: comparisons across two families of instructions, where one family has no comparisons of its own.

Registered with the words "raise the family"; the measure is the difference from DPO. Measured: under DOVE the second
family about keeps its level, under DPO on the first family's pairs it falls by two thirds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._checked_answers import init, sample, token_logps, trainer
from evidence.harness import Claim

from jaxpo.construct.dove import random_pairs
from jaxpo.losses import dove

VOCAB, LENGTH, PROMPT, ANSWER = 8, 5, 2, 3
BUDGET, STEPS, RATE, BATCH, BETA = 1200, 300, 1e-3, 64, 0.1

CLAIM = Claim(
    method="dove",
    paper="arXiv:2404.00530",
    claim="With one annotation budget, joint preferences over items of two families serve the family that has no "
    "conditional pairs better than conditional pairs of the other family do.",
    baseline="DPO on conditional pairs of the first family, same budget",
    measure="mean score of sampled answers in the second family, DOVE minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.03,
    min_share=0.8,
)


def targets(prompts: np.ndarray) -> np.ndarray:
    """Right answers to (family, x): family 0 counts up from x, family 1 counts down."""
    step = np.where(prompts[:, 0] == 0, 1, -1)
    return (prompts[:, 1:2] + step[:, None] * np.arange(1, ANSWER + 1)) % VOCAB


def scores(tokens: np.ndarray) -> np.ndarray:
    return (tokens[:, PROMPT:] == targets(tokens[:, :PROMPT])).mean(axis=1)


def prompts_of(rng: np.random.Generator, family: int, count: int) -> np.ndarray:
    return np.stack([np.full(count, family), rng.integers(0, VOCAB, count)], axis=1).astype(np.int32)


def drawn(model, rng: np.random.Generator, family: int, count: int) -> np.ndarray:
    """Sampled items of a family."""
    prompts = jnp.asarray(prompts_of(rng, family, count))
    return np.asarray(sample(model, prompts, jax.random.key(int(rng.integers(1 << 30))), ANSWER))


def conditional(model, rng: np.random.Generator, count: int) -> np.ndarray:
    """Pairs of answers to one instruction of family 0, better first, ties dropped: `[<= count, 2, S]`."""
    prompts = np.repeat(prompts_of(rng, 0, 4 * count), 2, axis=0)
    tokens = np.asarray(sample(model, jnp.asarray(prompts), jax.random.key(int(rng.integers(1 << 30))), ANSWER))
    return better_first(tokens.reshape(-1, 2, LENGTH))[:count]


def joint(model, rng: np.random.Generator, count: int) -> np.ndarray:
    """Pairs of items of both families without replacement, better first, ties dropped."""
    items = np.concatenate([drawn(model, rng, family, 4 * count) for family in (0, 1)])
    pairs = np.asarray(random_pairs(len(items), rng))
    return better_first(items[pairs])[:count]


def better_first(pairs: np.ndarray) -> np.ndarray:
    a, b = scores(pairs[:, 0]), scores(pairs[:, 1])
    ordered = np.where((a > b)[:, None, None], pairs, pairs[:, ::-1])
    return ordered[a != b]


_RESPONSE = jnp.arange(LENGTH) >= PROMPT
_INSTRUCTION = (jnp.arange(LENGTH) > 0) & ~_RESPONSE


def _loss(together: bool):
    def loss(params, data):
        pairs, ref = data
        policy = [token_logps(params, pairs[:, k]) for k in (0, 1)]
        response, instruction = (jnp.broadcast_to(m, pairs[:, 0].shape) for m in (_RESPONSE, _INSTRUCTION))
        return jnp.mean(
            dove(*policy, ref[:, 0], ref[:, 1], response, response, instruction, instruction, beta=BETA, joint=together)
        )

    return loss


_pretrain = trainer(lambda p, tokens: -jnp.mean(token_logps(p, tokens)), steps=600, rate=3e-3, batch=128)
_dove, _dpo = (trainer(_loss(together), steps=STEPS, rate=RATE, batch=BATCH) for together in (True, False))


@jax.jit
def _reference(params, pairs):
    """Token log-probs of both sides, `[n, 2, S]`."""
    return jnp.stack([token_logps(params, pairs[:, k]) for k in (0, 1)], axis=1)


def measure(seed: int) -> dict[str, float]:
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    prompts = np.concatenate([prompts_of(rng, family, 2000) for family in (0, 1)])
    right = targets(prompts)
    noisy = np.where(rng.random(right.shape) < 0.45, right, rng.integers(0, VOCAB, right.shape))
    text = jnp.asarray(np.concatenate([prompts, noisy], axis=1), jnp.int32)
    start = _pretrain(init(key, VOCAB, LENGTH), text, jax.random.fold_in(key, 1))
    alone = conditional(start, rng, BUDGET)
    union = np.concatenate([conditional(start, rng, BUDGET // 2), joint(start, rng, BUDGET // 2)])
    ours, dpo = (
        train(start, (jnp.asarray(pairs), _reference(start, jnp.asarray(pairs))), jax.random.fold_in(key, 2))
        for train, pairs in ((_dove, union), (_dpo, alone))
    )

    def quality(model, family):
        return float(scores(drawn(model, np.random.default_rng(seed), family, 4000)).mean())

    def instruction(model):
        return float(jnp.mean(token_logps(model, text)[:, 1]))

    return {
        "method": quality(ours, 1),
        "baseline": quality(dpo, 1),
        "effect": quality(ours, 1) - quality(dpo, 1),
        "first family, DOVE": quality(ours, 0),
        "first family, DPO": quality(dpo, 0),
        "second family, start": quality(start, 1),
        "change of log pi(x), DOVE": instruction(ours) - instruction(start),
    }
