"""Feature arrays without a model: a scorer that reads its results from the parameters, and small packed batches."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch, split_leading
from jaxpo.objectives.encode import TokenStats

T = 6
LENGTHS = (4, 2, 5, 3, 1, 6, 2, 4)  # supervised tokens of the segments, in the order they are laid out


class ArrayScorer(NamedTuple):
    """Stands for a network: `params` hold the per-token results themselves, `[R, S]`."""

    def token_stats(self, params, batch, hidden=None, *, collision=False, rng=None):
        stats = TokenStats(params["logps"], params["entropy"], params["correct"])
        return stats.replace(columns={"collision": params["collision"]}) if collision else stats

    def logps(self, params, batch, rng=None):
        return params["logps"]

    def token_stats_and_kl(
        self, params, reference, batch, hidden=None, *, collision=False, rng=None, reference_scorer=None
    ):
        return (
            self.token_stats(params, batch, collision=collision),
            jax.lax.stop_gradient(reference["logps"]),
            params["kl"],
        )

    def hidden(self, params, batch, rng=None):
        return params["hidden"]

    def unembedding(self, params):
        return params["embed_tokens"]["weight"]

    def pooled(self, hidden, batch, rng=None):
        return hidden

    def with_output(self, params):
        return params

    def run(self, params, batch, rng=None, tap=None):
        return params["hidden"], {}


def segments(count, seed=0):
    """`count` segments: prompt length 1 to 3, then LENGTHS supervised tokens; scores in target coordinates."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        n, q = LENGTHS[i % len(LENGTHS)], int(rng.integers(1, 4))
        values = {
            "logps": -rng.gamma(2.0, 1.0, q + n),
            "entropy": rng.gamma(2.0, 1.0, q + n),
            "correct": (rng.random(q + n) < 0.5).astype(float),
            "kl": rng.gamma(1.0, 0.3, q + n),
            "collision": -rng.gamma(1.0, 1.0, q + n),
            "ref_logps": -rng.gamma(2.0, 1.0, q + n),
            "hidden": rng.normal(size=(q + n, 3)),
        }
        out.append((q, {k: v.astype(np.float32) for k, v in values.items()}))
    return out


def lay_out(examples, roles, columns, *, per_row=1, order=None):
    """Examples (lists of segments) into blocks of one row per `per_row` segments; NaN wherever nothing may be read.

    Returns `(batch, params, reference)`. `roles` maps a role to the index (or indices) of its segment in an example, -1
    for absent; `order` permutes the examples; entries None are empty places.
    """
    examples = [examples[i] for i in order] if order is not None else examples
    columns = {k: np.asarray([v[i] for i in order]) if order is not None else np.asarray(v) for k, v in columns.items()}
    widest = max(len(e) for e in examples if e is not None)
    block_rows, s = -(-widest // per_row), (T + 3) * per_row + 2
    rows, n = block_rows * len(examples), len(examples)
    seg, pos = np.zeros((rows, s), np.int32), np.zeros((rows, s), np.int32)
    masks = {k: np.zeros((rows, s), bool) for k in ("completion", "prompt")}
    values = {
        k: np.full((rows, s), np.nan, np.float32)
        for k in ("logps", "entropy", "correct", "kl", "collision", "ref_logps")
    }
    values["hidden"] = np.full((rows, s, 3), np.nan, np.float32)
    index = {k: np.full((n, *np.shape(v)), -1, np.int32) for k, v in roles.items()}
    for e, example in enumerate(examples):
        if example is None:
            continue
        places = []
        for k, (q, data) in enumerate(example):
            row, slot = e * block_rows + k // per_row, k % per_row
            start = (T + 3) * slot + (1 if per_row > 1 else 0)
            stop = start + len(data["logps"])
            seg[row, start:stop], pos[row, start:stop] = slot + 1, np.arange(stop - start)
            masks["completion"][row, start + q : stop] = True
            masks["prompt"][row, start + 1 : start + q] = True
            for name, x in data.items():
                values[name][row, start:stop] = x
            places.append((row - e * block_rows) * per_row + slot)
        for name, which in roles.items():
            here = np.asarray(which)
            known = (here >= 0) & (here < len(places))
            index[name][e] = np.where(known, np.asarray(places)[np.where(known, here, 0)], -1)
    batch = Batch(
        tokens=jnp.zeros((rows, s), jnp.int32),
        segment_ids=jnp.asarray(seg),
        positions=jnp.asarray(pos),
        masks={k: jnp.asarray(v) for k, v in masks.items()},
        per_token={"ref_logps": jnp.asarray(values["ref_logps"])},
        per_segment={},
        per_example={k: jnp.asarray(v) for k, v in columns.items()},
        roles={k: jnp.asarray(v) for k, v in index.items()},
        example_id=jnp.asarray([-1 if e is None else i for i, e in enumerate(examples)], jnp.int32),
        block_rows=block_rows,
        slots=per_row,
        max_segment=T + 3,
    )
    params = {"model": {k: jnp.asarray(v) for k, v in values.items() if k != "ref_logps"}}
    return batch, params, {"reference": {"logps": jnp.asarray(values["ref_logps"])}}


class Runner:
    """An objective compiled once per shape: counts, and `(Out, gradient in the model's results)`."""

    def __init__(self, objective):
        self.objective = objective
        self.counts = jax.jit(objective.counts)
        self.run = jax.jit(self._run)

    def _run(self, params, frozen, batch, carry, counts):
        def loss(p):
            features, _ = self.objective.encode(p, frozen, batch, jax.random.key(0))
            out = self.objective.loss(features, batch, carry, counts)
            return out.loss, out

        grads, out = jax.grad(loss, has_aux=True)(params)
        return out, grads

    def __call__(self, batch, params, frozen, *, carry=None, counts=None):
        carry = self.objective.init_carry() if carry is None else carry
        return self.run(params, frozen, batch, carry, self.counts(batch) if counts is None else counts)


def microbatches(batch, params, frozen, parts=2):
    """The batch and the row-wise results that stand for networks, cut alike."""
    cut = jax.tree.map(lambda x: split_leading(x, batch.blocks, parts), (params, frozen))
    split = (batch.split(parts), *cut)
    return [jax.tree.map(lambda x, i=i: x[i], split) for i in range(parts)]


def sums(example, name, role=0):
    """Float64 sum of one segment's supervised tokens."""
    q, data = example[role]
    return float(np.sum(data[name][q:].astype(np.float64)))


def values_of(out):
    return {name: float(m.value()) for name, m in out.metrics.items()}
