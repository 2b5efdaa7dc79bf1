"""What the heads of a reward model read of many answers, as arrays; and what answers are worth among each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.tokens.examples import Segment
from jaxpo.evaluate.rewards.score import scored_mask
from jaxpo.evaluate.score import POSITIONS, ROW_LENGTH, Progress, each_segment
from jaxpo.losses import gpm_mean_scores, gpm_table
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.rewards import RewardMethod

Tree = Any
VECTORS = ("embedding", "gate", "temperature")
"""What a preference model reads of an answer."""


def readings_of(
    scorer: Scorer,
    method: RewardMethod,
    params: Mapping[str, Tree],
    segments: Sequence[Segment],
    names: Sequence[str],
    progress: Progress = lambda *_: None,
) -> dict[str, np.ndarray]:
    """Name -> float32 `[n, ...]`, one forward per answer, in batches of about `POSITIONS`.

    Args:
      params: the model's tree and the heads'.
      names: of what the method reads per segment.
    """
    by_length: dict[int, list[int]] = {}
    for i, segment in enumerate(segments):
        by_length.setdefault(max(ROW_LENGTH, 1 << (len(segment.tokens) - 1).bit_length()), []).append(i)
    shapes: dict[str, tuple[int, ...]] = {}

    def run(batch: Batch) -> jax.Array:
        found = _readings(scorer, method, tuple(names), params, batch)
        shapes.update({name: x.shape[2:] for name, x in found.items()})
        return jnp.concatenate([found[name].reshape(batch.rows, batch.slots, -1) for name in names], axis=-1)

    flat: dict[int, np.ndarray] = {}
    for row_length, members in sorted(by_length.items()):
        rows = max(1, POSITIONS // row_length)
        chosen = [segments[i] for i in members]
        beside = [{"completion": scored_mask(s), **s.per_token} for s in chosen]
        for place, row in each_segment(run, [s.tokens for s in chosen], rows, row_length, beside=beside):
            flat[members[place.segment]] = row[place.slot]
        progress(len(flat), len(segments))
    stacked = np.stack([flat[i] for i in range(len(segments))])
    borders = np.cumsum([int(np.prod(shapes[name])) for name in names])[:-1]
    parts = np.split(stacked, borders, axis=1)
    return {name: part.reshape(-1, *shapes[name]) for name, part in zip(names, parts, strict=True)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _readings(
    scorer: Scorer, method: RewardMethod, names: tuple[str, ...], params: Tree, batch: Batch
) -> dict[str, jax.Array]:
    found = method.read_states(scorer, params, scorer.hidden(params["model"], batch), batch)
    return {name: found[name] for name in names}


def table_of(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log-odds that answer i beats answer j of one prompt, float64 `[K, K]`, from a vector of each.

    Args:
      values: of `readings_of`, the `VECTORS` of the prompt's answers.
    """
    table = gpm_table(jnp.asarray(values["embedding"]), jnp.asarray(values["gate"][0]))
    return np.asarray(table, np.float64) / np.float64(values["temperature"][0])


def mean_scores_of(values: Mapping[str, np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """What each answer is worth among those to its prompt, float64 `[n]`; those of two differ by their log-odds.

    Args:
      values: as of `table_of`, of all prompts one after another.
      sizes: answers to each prompt.
    """
    found, at = [], 0
    for size in sizes:
        own = {name: x[at : at + size] for name, x in values.items()}
        found.append(np.asarray(gpm_mean_scores(jnp.asarray(table_of(own))), np.float64))
        at += size
    return np.concatenate(found) if found else np.zeros(0)
