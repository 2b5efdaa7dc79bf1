"""PRO: weights that are predicted from the prompt serve prompts of two kinds better than any fixed ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim

from jaxpo.losses import orchestrated_reward, orchestrator_targets, pro_orchestrator

PROMPTS, TESTED, FEATURES, RESPONSES, WIDTH, STEPS = 2000, 2000, 8, 8, 32, 400
WEIGHTS = np.array([[0.9, 0.1], [0.1, 0.9]])

CLAIM = Claim(
    method="pro_orchestrator",
    paper="arXiv:2511.10656",
    claim="Where one objective matters to prompts of one kind and another to the others, the answers chosen by "
    "predicted weights are worth more than those chosen by the best fixed weights.",
    baseline="the best of 11 fixed weightings, found on the test prompts",
    measure="mean true utility of the chosen answers, predicted minus fixed; -1 where the adapter names the objective "
    "that matters in at most 95 % of the prompts",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
    min_share=1.0,
)


def prompts(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinds, features that show them, and the rewards of eight answers, on two scales."""
    kind = rng.integers(0, 2, n)
    x = rng.normal(size=(n, FEATURES)) + 3.0 * (2 * kind[:, None] - 1) * (np.arange(FEATURES) == 0)
    rewards = rng.normal(size=(n, RESPONSES, 2)) * [1.0, 10.0] + [0.0, 5.0]
    return kind, x.astype(np.float32), rewards


def utility(kind: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """What an answer is truly worth, of rewards on one scale."""
    return np.einsum("nyk,nk->ny", (rewards - [0.0, 5.0]) / [1.0, 10.0], WEIGHTS[kind])


def logits(params, x):
    return jax.nn.gelu(x @ params["w"] + params["b"]) @ params["out"] + params["bias"]


@jax.jit
def train(params, x, targets):
    optimizer = optax.adam(3e-3)

    def step(state, _):
        p, moments = state
        grads = jax.grad(lambda q: jnp.mean(pro_orchestrator(logits(q, x), targets)))(p)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(p, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=STEPS)[0][0]


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    kind, x, rewards = prompts(rng, PROMPTS)
    preferred = np.argmax(utility(kind, rewards) + 0.3 * rng.normal(size=(PROMPTS, RESPONSES)), 1)
    given = rewards[np.arange(PROMPTS), preferred]
    offset, scale = given.mean(0), given.std(0)
    start = {
        "w": rng.normal(size=(FEATURES, WIDTH)) / np.sqrt(FEATURES),
        "b": np.zeros(WIDTH),
        "out": np.zeros((WIDTH, 2)),
        "bias": np.zeros(2),
    }
    targets = orchestrator_targets(given, offset, scale)
    params = train(jax.tree.map(jnp.float32, start), jnp.asarray(x), targets)

    kind, x, rewards = prompts(rng, TESTED)
    true = utility(kind, rewards)

    def worth(weights: np.ndarray) -> float:
        scores = np.asarray(orchestrated_reward(weights[:, None, :], rewards, offset, scale))
        return float(np.mean(true[np.arange(TESTED), scores.argmax(1)]))

    z = np.asarray(logits(params, jnp.asarray(x)))
    accuracy = float(np.mean(z.argmax(1) == WEIGHTS[kind].argmax(1)))
    predicted = worth(np.asarray(jax.nn.softmax(z)))
    fixed = max(worth(np.tile([a, 1 - a], (TESTED, 1))) for a in np.linspace(0, 1, 11))
    return {
        "method": predicted,
        "baseline": fixed,
        "effect": predicted - fixed if accuracy > 0.95 else -1.0,
        "argmax accuracy": accuracy,
        "true weights": worth(WEIGHTS[kind]),
    }
