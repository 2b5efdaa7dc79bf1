"""RDPO: a rationale that names the attribute behind the preferences, with few pairs and louder distractors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim

from jaxpo.losses import dpo, rationales

TOPICS, FILLERS, ANSWER, HIDDEN = 4, 10, 5, 32
VOCAB = 2 * TOPICS + FILLERS  # good and bad word of each topic, then fillers, half of them typical of chosen answers
STEPS, RATE, BETA, GAMMA = 200, 3e-3, 0.1, 0.1
FEW, MANY = 64, 2000

CLAIM = Claim(
    method="rationales",
    paper="arXiv:2407.14477",
    claim="With 64 pairs, learning to name the deciding attribute makes the policy rank decorrelated pairs better.",
    baseline="DPO on the same 64 pairs",
    measure="accuracy of the implicit reward on held-out pairs whose distractors are decorrelated, RDPO minus DPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.03,
    min_share=0.75,
)


def init(key: jax.Array):
    """A perceptron from topic, bag of earlier words, and whether a rationale is asked for, to the next word."""
    a, b = jax.random.split(key)
    inputs = TOPICS + VOCAB + 1
    return {
        "w1": 0.5 * jax.random.normal(a, (inputs, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": 0.1 * jax.random.normal(b, (HIDDEN, VOCAB)),
        "b2": jnp.zeros(VOCAB),
    }


def next_word(params, topic, bag, asked):
    """`[.., V]` log-probs."""
    flag = jnp.full((*bag.shape[:-1], 1), asked)
    x = jnp.concatenate([jax.nn.one_hot(topic, TOPICS), bag, flag], axis=-1)
    return jax.nn.log_softmax(jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"])


def answer_logps(params, topic, words):
    """`[B]` log-prob of an answer of `ANSWER` words, summed."""
    hot = jax.nn.one_hot(words, VOCAB)
    earlier = jnp.cumsum(hot, axis=1) - hot
    topics = jnp.broadcast_to(topic[:, None], words.shape)
    return jnp.sum(next_word(params, topics, earlier, 0.0) * hot, axis=(1, 2))


def rationale_logps(params, topic, chosen, rejected):
    """`[B]` log-prob of the one word that names the topic's good attribute, given both answers."""
    bag = jnp.sum(jax.nn.one_hot(chosen, VOCAB) + jax.nn.one_hot(rejected, VOCAB), axis=1)
    return jnp.take_along_axis(next_word(params, topic, bag, 1.0), (2 * topic)[:, None], axis=-1)[:, 0]


def fit(loss, steps: int, rate: float):
    optimizer = optax.adam(rate)

    @jax.jit
    def run(params, *data):
        def step(state, _):
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params, *data), moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]

    return run


def _margin(params, ref, data):
    topic, chosen, rejected = data
    return [answer_logps(p, topic, words) for p in (params, ref) for words in (chosen, rejected)]


def _dpo_loss(params, ref, data):
    return jnp.mean(dpo(*_margin(params, ref, data), beta=BETA))


def _rdpo_loss(params, ref, data):
    topic, chosen, rejected = data
    n = jnp.ones(len(topic))
    prefer, _, reason = rationales(
        *_margin(params, ref, data), n, n, rationale_logps(params, topic, chosen, rejected), n, beta=BETA, gamma=GAMMA
    )
    return jnp.mean(prefer + reason)


_pretrain = fit(lambda p, topic, words: -jnp.mean(answer_logps(p, topic, words)), 500, 3e-3)
_dpo, _rdpo = (fit(loss, STEPS, RATE) for loss in (_dpo_loss, _rdpo_loss))


def answers(rng: np.random.Generator, topic: np.ndarray, good: np.ndarray, typical: float) -> np.ndarray:
    """One word of the topic, good or bad, among fillers; `typical` is the share of those usual in chosen answers."""
    first, half = 2 * TOPICS, FILLERS // 2
    kind = rng.random((len(topic), ANSWER)) < np.reshape(typical, (-1, 1))
    words = first + rng.integers(0, half, kind.shape) + np.where(kind, 0, half)
    words[np.arange(len(topic)), rng.integers(0, ANSWER, len(topic))] = 2 * topic + np.where(good, 0, 1)
    return words


def pairs(rng: np.random.Generator, count: int, correlated: bool):
    """Topic, chosen (good word) and rejected (bad word); in correlated data the fillers tell them apart too."""
    topic = rng.integers(0, TOPICS, count)
    share = (0.8, 0.2) if correlated else (0.5, 0.5)
    chosen, rejected = (
        answers(rng, topic, np.full(count, good), np.full(count, s))
        for good, s in zip((True, False), share, strict=True)
    )
    return tuple(jnp.asarray(x, jnp.int32) for x in (topic, chosen, rejected))


@functools.partial(jax.jit)
def accuracy(params, ref, data):
    pw, pl, rw, rl = _margin(params, ref, data)
    return jnp.mean(pw - rw > pl - rl)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, 4000)
    text = answers(rng, topic, rng.random(4000) < 0.5, np.full(4000, 0.5))
    start = _pretrain(init(jax.random.key(seed)), jnp.asarray(topic, jnp.int32), jnp.asarray(text, jnp.int32))
    test = pairs(rng, 4000, correlated=False)
    found = {}
    for count in (FEW, MANY):
        data = pairs(rng, count, correlated=True)
        found[count] = [float(accuracy(train(start, start, data), start, test)) for train in (_rdpo, _dpo)]
    return {
        "method": found[FEW][0],
        "baseline": found[FEW][1],
        "effect": found[FEW][0] - found[FEW][1],
        "RDPO, 2000 pairs": found[MANY][0],
        "DPO, 2000 pairs": found[MANY][1],
    }
