"""MAPL on a linear reward model: following added instructions without losing the semantic order."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim

from jaxpo.construct.mapl import assignments
from jaxpo.losses import mapl

FEATURES, KINDS, PAIRS, STEPS = 8, 6, 500, 400

CLAIM = Claim(
    method="mapl",
    paper="arXiv:2505.12845",
    claim="With the intra and inter terms a reward model prefers the response that meets more instructions; the base "
    "loss does not, and the semantic order is kept.",
    baseline="Bradley-Terry on the same pairs, whose prompts carry no instruction",
    measure="accuracy at picking the response that meets more instructions, MAPL minus Bradley-Terry",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
    min_share=1.0,
)


def score(theta: jax.Array, meaning: jax.Array, met: jax.Array) -> jax.Array:
    """Linear reward of a response's features and of how it meets each kind: 1 met, -1 violated, 0 not asked for."""
    return meaning @ theta[:FEATURES] + met @ theta[FEATURES:]


@functools.partial(jax.jit, static_argnames=("intra", "inter"))
def train(start, data, intra, inter):
    meaning, plus, minus, second, sign = data
    nothing = jnp.zeros((len(sign), KINDS))
    optimizer = optax.adam(0.02)

    def loss(theta):
        pair = [score(theta, meaning[:, k], nothing) for k in (0, 1)]
        fits = [score(theta, meaning, met) for met in (plus, minus)]
        under = [score(theta, meaning[:, k], second[:, k]) for k in (0, 1)]
        terms = mapl(*pair, *fits, *under, sign, intra_weight=intra, inter_weight=inter)
        return jnp.mean(terms) + 1e-3 * jnp.sum(theta**2)

    def step(state, _):
        theta, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(theta), moments)
        return (optax.apply_updates(theta, updates), moments), None

    return jax.lax.scan(step, (start, optimizer.init(start)), None, length=STEPS)[0][0]


def prompts_of_one(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How one response meets the instructions of x+ and of x-, ordered by the paper's rule."""
    kinds = rng.permutation(KINDS)[: rng.integers(1, 4)]
    both = []
    for flags in assignments(len(kinds), rng):
        met = np.zeros(KINDS)
        met[kinds] = np.where(flags, 1.0, -1.0)
        both.append(met)
    return both[0], both[1]


def training_data(rng: np.random.Generator, truth: np.ndarray):
    meaning = rng.normal(size=(PAIRS, 2, FEATURES))
    gap = (meaning[:, 0] - meaning[:, 1]) @ truth
    flip = rng.random(PAIRS) > 1 / (1 + np.exp(-2 * gap))
    meaning[flip] = meaning[flip][:, ::-1]
    fits = np.array([[prompts_of_one(rng) for _ in range(2)] for _ in range(PAIRS)])  # pair, response, plus or minus
    sign = rng.choice([-1.0, 1.0], PAIRS)
    second = np.zeros((PAIRS, 2, KINDS))
    for i in range(PAIRS):
        kinds = rng.permutation(KINDS)[: rng.integers(1, 4)]
        second[i, 0, kinds], second[i, 1, kinds] = sign[i], -sign[i]
    return tuple(jnp.asarray(x, jnp.float32) for x in (meaning, fits[:, :, 0], fits[:, :, 1], second, sign))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=FEATURES)
    truth /= np.linalg.norm(truth)
    data = training_data(rng, truth)
    start = jnp.asarray(0.01 * rng.normal(size=FEATURES + KINDS), jnp.float32)
    meaning = rng.normal(size=(4000, 2, FEATURES))
    met = np.where(rng.random((4000, 2, KINDS)) < 0.5, 1.0, -1.0) * (rng.random((4000, 1, KINDS)) < 0.5)
    more = met.sum(-1)
    decided = more[:, 0] != more[:, 1]

    def accuracy(theta, with_instructions):
        asked = met if with_instructions else 0 * met
        picked = np.asarray(score(theta, jnp.asarray(meaning), jnp.asarray(asked)))
        truths = more if with_instructions else meaning @ truth
        rows = decided if with_instructions else np.ones(4000, bool)
        return float(np.mean((picked[:, 0] > picked[:, 1])[rows] == (truths[:, 0] > truths[:, 1])[rows]))

    found = {
        name: train(start, data, intra, inter)
        for name, intra, inter in (("base", 0.0, 0.0), ("intra", 1.0, 0.0), ("inter", 0.0, 1.0), ("both", 1.0, 1.0))
    }
    follows = {name: accuracy(theta, True) for name, theta in found.items()}
    return {
        "method": follows["both"],
        "baseline": follows["base"],
        "effect": follows["both"] - follows["base"],
        "intra alone": follows["intra"],
        "inter alone": follows["inter"],
        "semantic accuracy, both": accuracy(found["both"], False),
        "semantic accuracy, base": accuracy(found["base"], False),
    }
