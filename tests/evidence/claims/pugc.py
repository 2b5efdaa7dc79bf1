"""PUGC: answers that are ordered by what somebody's post says lead nearer to what that somebody means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim, NotReproduced

from jaxpo.judges.words import word_overlap
from jaxpo.losses import dpo

TOPICS, HELD_OUT, DIMENSIONS, WORDS, HIDDEN, LENGTH, SAMPLES = 48, 16, 6, 30, 6, 5, 5
KEPT, STRAY, BETA, STEPS, RATE, DRAWS = 0.7, 3, 0.1, 200, 0.05, 4

CLAIM = Claim(
    method="pugc",
    paper="arXiv:2506.04463",
    claim="A policy that learns by DPO from its own answers, ordered by their overlap with posts that are noisy "
    "samples of hidden keywords, says more of these on held-out topics than one whose answers are ordered by a scorer "
    "that is blind to the author.",
    baseline="the same, ordered by the overlap with the words that are frequent in all posts",
    measure="share of hidden keywords among the words of answers on held-out topics, posts minus blind",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.05,
    not_reproduced=NotReproduced(
        "0.13 on average, but with the sign in 3 of 5 seeds: on two the words that are frequent in all "
        "posts are most of the held-out authors' keywords, since their scores share an offset for every "
        "word.",
        (0.0, 0.3),
    ),
)


def world(rng):
    """Topics `[64, 6]`, their hidden keywords `[64, 30]`, and a policy `[6, 30]` that knows a part of them."""
    topics = rng.standard_normal((TOPICS + HELD_OUT, DIMENSIONS))
    meant = rng.standard_normal((DIMENSIONS, WORDS))
    scores = topics @ meant + rng.standard_normal(WORDS)
    hidden = np.zeros(scores.shape, bool)
    np.put_along_axis(hidden, np.argsort(-scores, axis=1, kind="stable")[:, :HIDDEN], True, axis=1)
    return topics, hidden, 0.2 * meant + 0.2 * rng.standard_normal(meant.shape)


def text(words):
    return " ".join(f"w{w}" for w in words)


def post(rng, hidden):
    """A noisy sample of an author's keywords."""
    kept = [w for w in np.flatnonzero(hidden) if rng.random() < KEPT]
    return text([*kept, *rng.integers(0, WORDS, STRAY)])


def _loss(theta, start, topics, chosen, rejected):
    """`chosen`, `rejected`: `[n, 30]` how often each word is said."""
    own, ref = (jax.nn.log_softmax(topics @ x) for x in (theta, start))
    sides = [jnp.sum(counts * logps, -1) for logps in (own, ref) for counts in (chosen, rejected)]
    return jnp.mean(dpo(*sides, beta=BETA))


_train = adam(_loss, STEPS, RATE)


def counts(answers):
    return np.stack([np.bincount(answer, minlength=WORDS) for answer in answers]).astype(np.float32)


def trained(start, topics, answers, references):
    """DPO on the best and the worst answer of every prompt by its reference; equal scores make no pair."""
    pairs = []
    for i, (own, reference) in enumerate(zip(answers, references, strict=True)):
        scores = np.asarray([word_overlap(text(answer), reference) for answer in own])
        best, worst = int(scores.argmax()), int(scores.argmin())
        weight = scores[best] > scores[worst]
        pairs.append((i, own[best], own[worst] if weight else own[best]))
    chosen, rejected = counts([p[1] for p in pairs]), counts([p[2] for p in pairs])
    first = jnp.asarray(start, jnp.float32)
    return np.asarray(_train(first, first, jnp.asarray(topics, jnp.float32), chosen, rejected))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    topics, hidden, start = world(rng)
    asked = np.repeat(np.arange(TOPICS), DRAWS)  # several authors' posts on a topic
    logits = topics[asked] @ start
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    answers = [[rng.choice(WORDS, LENGTH, p=p) for _ in range(SAMPLES)] for p in odds]
    posts = [post(rng, hidden[i]) for i in asked]
    frequent = np.bincount([int(w[1:]) for p in posts for w in p.split()], minlength=WORDS)
    blind = text(np.argsort(-frequent, kind="stable")[:HIDDEN])

    def hits(theta):
        logits = topics[TOPICS:] @ theta
        said = np.exp(logits - logits.max(1, keepdims=True))
        return float(((said / said.sum(1, keepdims=True)) * hidden[TOPICS:]).sum(1).mean())

    ours = hits(trained(start, topics[asked], answers, posts))
    plain = hits(trained(start, topics[asked], answers, [blind] * len(asked)))
    return {"method": ours, "baseline": plain, "effect": ours - plain, "before": hits(start)}
