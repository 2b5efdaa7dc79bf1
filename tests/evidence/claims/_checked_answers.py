"""A language model that trains in a second, a task whose answers can be checked, and the steps of a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

VOCAB, PROMPT, ANSWER, HIDDEN = 8, 2, 4, 64
LENGTH = PROMPT + ANSWER
Params = Any


def init(key: jax.Array, vocab: int = VOCAB, length: int = LENGTH) -> Params:
    """A perceptron over the one-hot tokens so far and the position."""
    a, b = jax.random.split(key)
    inputs = length * vocab + length
    return {
        "w1": jax.random.normal(a, (inputs, HIDDEN)) / np.sqrt(length + 1),
        "b1": jnp.zeros(HIDDEN),
        "w2": 0.1 * jax.random.normal(b, (HIDDEN, vocab)),
        "b2": jnp.zeros(vocab),
    }


def logits(params: Params, tokens: jax.Array) -> jax.Array:
    """`[B, S, V]`: position s predicts token s from the tokens before it."""
    length, vocab = tokens.shape[1], params["b2"].shape[0]
    by_token, by_position = params["w1"][:-length].reshape(length, vocab, HIDDEN), params["w1"][-length:]
    # The one-hot input times its weights, summed over the earlier tokens.
    each = jnp.einsum("bsv,svh->bsh", jax.nn.one_hot(tokens, vocab), by_token)
    earlier = jnp.einsum("ts,bsh->bth", jnp.tril(jnp.ones((length, length)), -1), each)
    return jax.nn.relu(earlier + by_position + params["b1"]) @ params["w2"] + params["b2"]


def token_logps(params: Params, tokens: jax.Array) -> jax.Array:
    """`[B, S]` log-prob of every token."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits(params, tokens)), tokens[..., None], axis=-1)[..., 0]


def answer_logps(params: Params, tokens: jax.Array) -> jax.Array:
    """`[B]` log-prob of the answer, summed over its tokens."""
    return jnp.sum(token_logps(params, tokens)[:, PROMPT:], axis=-1)


@functools.partial(jax.jit, static_argnames="count")
def sample(params: Params, prompts: jax.Array, key: jax.Array, count: int = ANSWER) -> jax.Array:
    """The prompts with `count` sampled tokens each."""
    start = prompts.shape[1]
    tokens = jnp.pad(prompts, ((0, 0), (0, count)))
    for s in range(start, start + count):
        drawn = jax.random.categorical(jax.random.fold_in(key, s), logits(params, tokens)[:, s])
        tokens = tokens.at[:, s].set(drawn)
    return tokens


def trainer(loss: Callable[..., jax.Array], *, steps: int, rate: float, batch: int) -> Callable[..., Params]:
    """`train(params, data, key)`: Adam on random batches of the rows of `data`; compiled once per shape."""
    optimizer = optax.adam(rate)

    @jax.jit
    def train(params: Params, data: Any, key: jax.Array) -> Params:
        rows = jax.tree.leaves(data)[0].shape[0]

        def step(state: Any, index: jax.Array) -> tuple[Any, None]:
            params, moments = state
            grads = jax.grad(loss)(params, jax.tree.map(lambda x: x[index], data))
            updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(params, updates), moments), None

        drawn = jax.random.randint(key, (steps, batch), 0, rows)
        return jax.lax.scan(step, (params, optimizer.init(params)), drawn)[0][0]

    return train


def answers(prompts: np.ndarray) -> np.ndarray:
    """The right answer to each prompt (a, b): a, b, a + b, a - b modulo the vocabulary."""
    a, b = prompts[:, 0], prompts[:, 1]
    return np.stack([a, b, (a + b) % VOCAB, (a - b) % VOCAB], axis=1)


def demonstrations(rng: np.random.Generator, count: int, right: float) -> np.ndarray:
    """Random prompts with answers whose tokens are right with that probability, else random."""
    prompts = rng.integers(0, VOCAB, (count, PROMPT))
    target = answers(prompts)
    noisy = np.where(rng.random(target.shape) < right, target, rng.integers(0, VOCAB, target.shape))
    return np.concatenate([prompts, noisy], axis=1).astype(np.int32)


def scores(tokens: np.ndarray) -> np.ndarray:
    """Share of an answer's tokens that are right, `[B]`."""
    tokens = np.asarray(tokens)
    return (tokens[:, PROMPT:] == answers(tokens[:, :PROMPT])).mean(axis=1)


def quality(params: Params, seed: int, repeats: int = 40) -> float:
    """Mean score of samples over all prompts."""
    grid = np.stack(np.meshgrid(np.arange(VOCAB), np.arange(VOCAB), indexing="ij"), -1).reshape(-1, PROMPT)
    prompts = jnp.asarray(np.repeat(grid, repeats, axis=0), jnp.int32)
    return float(scores(np.asarray(sample(params, prompts, jax.random.key(seed)))).mean())


def candidates(params: Params, rng: np.random.Generator, count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """k sampled answers to each of `count` random prompts, `[count, k, S]`, and their scores `[count, k]`."""
    prompts = np.repeat(rng.integers(0, VOCAB, (count, PROMPT)), k, axis=0)
    drawn = np.asarray(sample(params, jnp.asarray(prompts, jnp.int32), jax.random.key(int(rng.integers(1 << 30)))))
    return drawn.reshape(count, k, LENGTH), scores(drawn).reshape(count, k)


def sft_loss(params: Params, tokens: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the answer's tokens."""
    return -jnp.mean(answer_logps(params, tokens)) / ANSWER
