"""Tabular decision processes whose reward is linear in features: planning, successor features, returns; in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpo.errors import ConfigError

GAMMA = 0.999
"""Discount of planning."""
SURE = 1e-9


@dataclass(frozen=True)
class Process:
    """S states, A actions, and d features of every step.

    Attributes:
      transitions: `[S, A, S]` probabilities.
      features: `[S, A, S, d]` of a step.
      terminal: `[S]` True where an episode is over: such a state leads to itself, with features of 0.
      starts: `[S]` probability of a start.
    """

    transitions: np.ndarray
    features: np.ndarray
    terminal: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        """Raises ConfigError where the numbers are no process."""
        apart = np.abs(self.transitions.sum(axis=-1) - 1).max()
        if self.transitions.min() < 0 or apart > SURE:
            raise ConfigError("transitions: some are no probabilities; those of a state and an action add up to 1.")
        if self.starts.min() < 0 or abs(self.starts.sum() - 1) > SURE:
            raise ConfigError("starts: no probabilities; they add up to 1.")
        over = np.flatnonzero(self.terminal)
        stays = np.all(self.transitions[over, :, over] == 1) and not self.features[over].any()
        if not stays:
            raise ConfigError("terminal: such a state leads to itself, with features of 0.")

    @property
    def expected_features(self) -> np.ndarray:
        """`[S, A, d]` of a step, before it is known where it leads."""
        return np.einsum("san,sand->sad", self.transitions, self.features)

    @property
    def deterministic(self) -> bool:
        """Whether every action leads to one state."""
        return bool(np.all(self.transitions.max(axis=-1) > 1 - SURE))


def optimal_values(
    process: Process, weights: np.ndarray, *, gamma: float = GAMMA, tolerance: float = 1e-10, sweeps: int = 100_000
) -> tuple[np.ndarray, np.ndarray]:
    """`(V* [S], Q* [S, A])` of the reward `w . phi`, by policy iteration.

        Q*(s, a) = sum_s' P(s' | s, a) (w . phi(s, a, s') + gamma V*(s')),    V*(s) = max_a Q*(s, a)

    Args:
      gamma: below 1; at 1 values are iterated, which ends where every good policy does.
      tolerance: of the iteration at 1.
      sweeps: so many at most, at 1.

    Raises:
      ConfigError: at gamma 1 the values grow without end: somewhere rewards can be collected for ever.
    """
    rewards, values = process.expected_features @ weights, np.zeros(len(process.starts))
    if gamma < 1:
        policy = np.zeros(len(values), int)
        for _ in range(len(values) * rewards.shape[1] + 1):
            values = successor_features(process, one_hot(policy, rewards.shape[1]), gamma=gamma) @ weights
            q = rewards + gamma * process.transitions @ values
            better = q.max(axis=1) > np.take_along_axis(q, policy[:, None], 1)[:, 0] + SURE
            if not better.any():
                break
            policy = np.where(better, q.argmax(axis=1), policy)
        return q.max(axis=1), q
    for _ in range(sweeps):
        q = rewards + process.transitions @ values
        if np.abs(q.max(axis=1) - values).max() <= tolerance:
            return q.max(axis=1), q
        values = q.max(axis=1)
    raise ConfigError(f"the values still grow after {sweeps} sweeps; give a discount below 1.")


def one_hot(choices: np.ndarray, actions: int) -> np.ndarray:
    """`[S, A]` of a policy that always does one thing in a state."""
    return np.eye(actions)[choices]


def greedy_policy(process: Process, weights: np.ndarray, *, gamma: float = GAMMA) -> np.ndarray:
    """`[S, A]` the best for these weights; actions that are equally good share the probability."""
    values, q = optimal_values(process, weights, gamma=gamma)
    best = q >= values[:, None] - 1e-7
    return best / best.sum(axis=1, keepdims=True)


def successor_features(process: Process, policy: np.ndarray, *, gamma: float = GAMMA) -> np.ndarray:
    """`psi [S, d]`: the discounted sum of features from each state on; `psi . w` is the policy's value.

    psi(s) = sum_a pi(a | s) sum_s' P(s' | s, a) (phi(s, a, s') + gamma psi(s'))
    """
    steps = np.einsum("sa,san->sn", policy, process.transitions)
    features = np.einsum("sa,sad->sd", policy, process.expected_features)
    return np.linalg.solve(np.eye(len(steps)) - gamma * steps, features)


def mean_return(process: Process, policy: np.ndarray, weights: np.ndarray, *, gamma: float = GAMMA) -> float:
    """J: the policy's value, averaged over the starts."""
    return float(process.starts @ successor_features(process, policy, gamma=gamma) @ weights)


def scaled_return(process: Process, policy: np.ndarray, weights: np.ndarray, *, gamma: float = GAMMA) -> float:
    """`(J - J_random) / (J_opt - J_random)` under the true weights: 1 = optimal, 0 = as good as the uniform policy.

    Raises:
      ConfigError: the uniform policy is optimal, so that nothing can be measured.
    """
    uniform = np.full_like(policy, 1 / policy.shape[1])
    best = mean_return(process, greedy_policy(process, weights, gamma=gamma), weights, gamma=gamma)
    chance = mean_return(process, uniform, weights, gamma=gamma)
    if best - chance <= SURE:
        raise ConfigError("the uniform policy is optimal here: nothing can be learnt from this process.")
    return (mean_return(process, policy, weights, gamma=gamma) - chance) / (best - chance)


def random_process(
    rng: np.random.Generator, *, states: int = 12, actions: int = 3, features: int = 4, successors: int = 3
) -> Process:
    """A process whose actions lead to a few states each by chance; the last state is terminal.

    Args:
      successors: states that an action may lead to; 1 = deterministic.
    """
    transitions = np.zeros((states, actions, states))
    for s in range(states - 1):
        for a in range(actions):
            transitions[s, a, rng.choice(states, successors, replace=False)] = rng.dirichlet(np.ones(successors))
    transitions[-1, :, -1] = 1
    phi = rng.standard_normal((states, actions, states, features))
    phi[-1] = 0
    terminal = np.arange(states) == states - 1
    return Process(transitions, phi, terminal, np.where(terminal, 0, 1 / (states - 1)))
