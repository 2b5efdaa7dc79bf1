"""RDPO: a rationale that names the attribute behind the preferences, with few pairs and louder distractors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._checked_answers import trainer
from evidence.harness import Claim

from jaxpo.losses import dpo, rationales

TOPICS, FILLERS, ANSWER, HIDDEN = 4, 10, 5, 32
VOCAB = 2 * TOPICS + FILLERS  # good and bad word of each topic, then fillers, half of them typical of chosen answers
STEPS, RATE, BATCH, BETA, GAMMA = 200, 3e-3, 64, 0.1, 0.1
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


@jax.jit
def margin(params, pairs):
    """Log-probs of chosen and rejected answers."""
    topic, chosen, rejected = pairs
    return answer_logps(params, topic, chosen), answer_logps(params, topic, rejected)


def _dpo_loss(params, data):
    pairs, ref = data
    return jnp.mean(dpo(*margin(params, pairs), *ref, beta=BETA))


def _rdpo_loss(params, data):
    pairs, ref = data
    n = jnp.ones(len(pairs[0]))
    reason = rationale_logps(params, *pairs)
    prefer, _, term = rationales(*margin(params, pairs), *ref, n, n, reason, n, beta=BETA, gamma=GAMMA)
    return jnp.mean(prefer + term)


_pretrain = trainer(lambda p, data: -jnp.mean(answer_logps(p, *data)), steps=500, rate=3e-3, batch=256)
_dpo, _rdpo = (trainer(loss, steps=STEPS, rate=RATE, batch=BATCH) for loss in (_dpo_loss, _rdpo_loss))


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


def accuracy(params, ref, test) -> float:
    """Share of the test pairs that the implicit reward ranks as they are labelled."""
    (pw, pl), (rw, rl) = margin(params, test), margin(ref, test)
    return float(jnp.mean(pw - rw > pl - rl))


def measure(seed: int) -> dict[str, float]:
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    topic = rng.integers(0, TOPICS, 4000)
    text = answers(rng, topic, rng.random(4000) < 0.5, np.full(4000, 0.5))
    words = (jnp.asarray(topic, jnp.int32), jnp.asarray(text, jnp.int32))
    start = _pretrain(init(key), words, jax.random.fold_in(key, 1))
    test = pairs(rng, 4000, correlated=False)
    found = {}
    for count in (FEW, MANY):
        drawn = pairs(rng, count, correlated=True)
        data = (drawn, margin(start, drawn))
        trained = (train(start, data, jax.random.fold_in(key, 2)) for train in (_rdpo, _dpo))
        found[count] = [accuracy(model, start, test) for model in trained]
    return {
        "method": found[FEW][0],
        "baseline": found[FEW][1],
        "effect": found[FEW][0] - found[FEW][1],
        "RDPO, 2000 pairs": found[MANY][0],
        "DPO, 2000 pairs": found[MANY][1],
    }
