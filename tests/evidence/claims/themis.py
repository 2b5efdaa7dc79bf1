"""Themis: a calculator's observation tells right sums from wrong ones, which a reward model alone cannot."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import themis
from jaxpo.losses.themis import CALLS, PARTS
from jaxpo.tools.calculator import Calculator

PAIRS, TESTED, WIDTH, STEPS, BATCH, DIGITS = 4000, 1000, 128, 1200, 256, 4

CLAIM = Claim(
    method="themis",
    paper="arXiv:2310.01045",
    claim="A reward model that reads a calculator's observation ranks sums of unseen operands; one without "
    "is near chance.",
    baseline="the same network without the tool, Bradley-Terry alone",
    measure="held-out accuracy on pairs of a right sum and one that is off by 1 to 9, with minus without the tool",
    seeds=(0, 1, 2),
    threshold=0.35,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "With the tool it is right in all pairs, but without it 77 %: from 4,000 pairs the network learns to add last "
        "digits, which gives most wrong sums away. From 500 pairs it should not (themis_few_pairs).",
        (0.15, 0.3),
    ),
)


def digits(numbers: np.ndarray) -> np.ndarray:
    """One-hot decimal digits, `[n, 40]`."""
    found = np.stack([numbers // 10**k % 10 for k in range(DIGITS)], -1)
    return np.eye(10, dtype=np.float32)[found].reshape(len(numbers), -1)


def pairs(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """What is read of right and wrong answers, `[n, 160]`: both operands, the answer, what the calculator said."""
    a, b = rng.integers(100, 1000, (2, n))
    right = a + b
    wrong = right + rng.integers(1, 10, n) * rng.choice((-1, 1), n)
    calculator = Calculator()
    seen = np.array([int(calculator.call(f"{x} + {y}")) for x, y in zip(a, b, strict=True)])
    return tuple(np.concatenate([digits(x) for x in (a, b, answer, seen)], -1) for answer in (right, wrong))  # type: ignore[return-value]


def heads(params, x):
    """Reward, and the log-probs of the rationales "right" and "wrong"."""
    h = jax.nn.relu(x @ params["w"] + params["b"])
    return h @ params["reward"], jax.nn.log_softmax(h @ params["words"])


@jax.jit
def train(params, good, bad, index, alpha):
    optimizer = optax.adam(2e-3)
    at = jnp.zeros((1, PARTS)).at[0, 2 * CALLS].set(1.0)

    def loss(p, rows):
        (r_w, right), (r_l, wrong) = heads(p, good[rows]), heads(p, bad[rows])
        one = jnp.tile(at, (rows.shape[0], 1))
        rank, likelihood = themis(r_w, r_l, right[:, :1] * at, wrong[:, 1:] * at, one, one)
        return jnp.mean(rank + alpha * likelihood)

    def step(state, rows):
        p, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(p, rows), moments)
        return (optax.apply_updates(p, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), index)[0][0]


def measure(seed: int, count: int = PAIRS) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    data, tested = pairs(rng, count), pairs(rng, TESTED)
    inputs = data[0].shape[1]
    start = {
        "w": rng.normal(size=(inputs, WIDTH)) / np.sqrt(4 * DIGITS),
        "b": np.zeros(WIDTH),
        "reward": rng.normal(size=WIDTH) / np.sqrt(WIDTH),
        "words": rng.normal(size=(WIDTH, 2)) / np.sqrt(WIDTH),
    }
    index = jnp.asarray(rng.integers(0, count, (STEPS, BATCH)))
    accuracy = {}
    for name, tool, alpha in (("both", 1.0, 1.0), ("no rationale", 1.0, 0.0), ("no tool", 0.0, 0.0)):
        shown = np.concatenate([np.ones(inputs - 10 * DIGITS), np.full(10 * DIGITS, tool)]).astype(np.float32)
        params = train(jax.tree.map(jnp.float32, start), data[0] * shown, data[1] * shown, index, alpha)
        good, bad = (np.asarray(heads(params, jnp.asarray(x * shown))[0]) for x in tested)
        accuracy[name] = float(np.mean(good > bad))
    return {
        "method": accuracy["both"],
        "baseline": accuracy["no tool"],
        "effect": accuracy["both"] - accuracy["no tool"],
        "without the rationale": accuracy["no rationale"],
    }
