"""Steps by tree search: labels of siblings are more often right than those of one rollout each."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim, NotReproduced

from jaxpo.construct.tree_search.search import Plan, search
from jaxpo.construct.tree_search.tree import Step, visit_smoothing
from jaxpo.losses import mcts_dpo

TREES, DEPTH, NODES, SIMULATIONS, NOISE, BETA, STEPS, RATE = 200, 3, 7, 16, 0.3, 0.1, 200, 0.2

CLAIM = Claim(
    method="mcts_dpo",
    paper="arXiv:2405.00451",
    claim="In binary trees of depth 3 with an exact check of the ends and a noisy evaluation of steps, the better of "
    "two sibling steps by a search of 16 simulations is the one that more often leads to a right end; more often so "
    "than by one rollout after each.",
    baseline="one rollout after each sibling, a tie decided by a coin",
    measure="share of right labels of siblings along the search's path, search minus rollouts",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.05,
    not_reproduced=NotReproduced(
        "0.0498, with the sign in all seeds: a noisy evaluator of steps alone (one simulation) labels "
        "siblings better than the search does, which judges a node by the best of what follows it rather "
        "than by what the policy would do.",
        (0.03, 0.07),
    ),
)


class Tree:
    """Right ends, the policy's first action at every node, and how often each node leads to a right end."""

    def __init__(self, rng):
        self.right = rng.random(2**DEPTH) < 0.5
        self.first = rng.uniform(0.2, 0.8, NODES)
        self.success = {"": 0.0}
        self.fill("")
        self.seen = {n: float(np.clip(s + NOISE * rng.standard_normal(), 0.01, 0.99)) for n, s in self.success.items()}

    def fill(self, name):
        if len(name) == DEPTH:
            self.success[name] = float(self.right[int(name, 2)])
        else:
            both = [self.fill(name + bit) for bit in "01"]
            p = self.first[number(name)]
            self.success[name] = p * both[0] + (1 - p) * both[1]
        return self.success[name]

    def write(self, prefix, count):
        p = self.first[number(prefix)]
        ended = len(prefix) == DEPTH - 1
        return [
            Step(bit, math.log(q), 1, ended, self.seen[prefix + bit],
                 (1.0 if self.success[prefix + bit] else -1.0) if ended else 0.0)
            for bit, q in zip("01", (p, 1 - p), strict=True)
        ]  # fmt: skip


def number(name):
    """Of an inner node, from 0."""
    return 2 ** len(name) - 1 + (int(name, 2) if name else 0)


def searched(tree, simulations, seed):
    """(node, winner, smoothing) along the path of a search."""
    game = search(Plan(simulations, depth=DEPTH), seed)
    wanted = next(game)
    while True:
        try:
            wanted = game.send(tree.write(wanted.prefix, wanted.count))
        except StopIteration as over:
            path = over.value[1]
            break
    found = []
    for node in path[:-1]:
        ranked = sorted(node.children, key=lambda child: -child.q)
        if ranked[0].q > ranked[1].q:
            name = ranked[0].prefix
            found.append((node.prefix, name[-1], visit_smoothing(ranked[0].visits, ranked[1].visits)))
    return found


def rolled(tree, node, rng):
    """The winner at a node by one rollout after each of its steps."""
    ends = [rng.random() < tree.success[node + bit] for bit in "01"]
    return "01"[int(ends[1] > ends[0] or (ends[0] == ends[1] and rng.random() < 0.5))]


def share_right(labels, trees):
    """Of the labels of siblings that differ."""
    judged = [
        tree.success[node + winner] > tree.success[node + "10"[int(winner)]]
        for tree, own in zip(trees, labels, strict=True)
        for node, winner, _ in own
        if tree.success[node + "0"] != tree.success[node + "1"]
    ]
    return float(np.mean(judged))


def _loss(theta, reference, at, winner, smoothing):
    own, ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(reference)
    pick = lambda x, a: x[at[:, 0], at[:, 1], a][:, None]  # noqa: E731
    step = jnp.ones((at.shape[0], 1), bool)
    sides = (pick(own, winner), pick(own, 1 - winner), pick(ref, winner), pick(ref, 1 - winner))
    return jnp.sum(mcts_dpo(*sides, step, step, smoothing, beta=BETA))


_train = adam(_loss, STEPS, RATE)


def success_after(labels, trees):
    """How often the policy is right once it was trained on the labels."""
    start = np.log(np.stack([np.stack([t.first, 1 - t.first], -1) for t in trees]))
    flat = [(i, number(n), int(w), a) for i, own in enumerate(labels) for n, w, a in own]
    flat += [(0, 0, 0, 0.5)] * (TREES * DEPTH - len(flat))  # no signal at the start; one shape for all seeds
    at, winner = np.asarray([x[:2] for x in flat]), np.asarray([x[2] for x in flat])
    smoothing = np.asarray([x[3] for x in flat], np.float32)
    theta = np.asarray(_train(jnp.asarray(start, jnp.float32), jnp.asarray(start, jnp.float32), at, winner, smoothing))
    first = np.exp(theta[..., 0] - np.logaddexp(theta[..., 0], theta[..., 1]))
    for tree, own in zip(trees, first, strict=True):
        tree.first = own
    return float(np.mean([tree.fill("") for tree in trees]))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    trees = [Tree(rng) for _ in range(TREES)]
    labels = [searched(tree, SIMULATIONS, seed) for tree in trees]
    once = [searched(tree, 1, seed) for tree in trees]
    plain = [
        [(node, rolled(tree, node, rng), 0.0) for node, *_ in own] for tree, own in zip(trees, labels, strict=True)
    ]
    before = float(np.mean([tree.success[""] for tree in trees]))
    method, baseline, few = (share_right(x, trees) for x in (labels, plain, once))
    return {
        "method": method,
        "baseline": baseline,
        "effect": method - baseline,
        "with one simulation": few,
        "success before": before,
        "success after step DPO": success_after(labels, trees),
    }
