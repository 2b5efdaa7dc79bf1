"""A generation's answers as steps train on them: advantages, columns, and the log-probs that ratios are taken over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxpo.config import Online
from jaxpo.data.packing.batch import Batch, join_leading
from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.rollouts import ADVANTAGES, OLD_LOGPS, PER_TOKEN, SAMPLING_LOGPS
from jaxpo.objectives.methods.answering import Answering
from jaxpo.online.advantages import Shaped
from jaxpo.online.batches import Layout, Trained
from jaxpo.online.generation import Generation
from jaxpo.sharding import current_mesh, put_batch, settle, to_host

Tree = Any


def columns_of(names: Sequence[str], needs: Needs) -> tuple[str, ...]:
    """The per-example columns of a stage whose rewards have these names: those of pairs are the method's alone."""
    if "completion" not in needs.roles:
        return needs.columns
    own = ("reward", "rewarded", "group_std", "finished", "failed", "answer_length", "group", "correct")
    return (*own, *(f"reward:{name}" for name in names))


def per_token_of(stage: Online, needs: Needs) -> tuple[str, ...]:
    """The per-token columns of a stage; old log-probs where ratios are taken."""
    if SAMPLING_LOGPS not in needs.per_token:
        return ()
    recorded = stage.steps_per_cycle > 1 or stage.old_logps == "sampler"
    return (*PER_TOKEN, OLD_LOGPS) if recorded else PER_TOKEN


def trained(
    generation: Generation,
    shaped: Shaped,
    names: Sequence[str],
    verifies: Sequence[int],
    *,
    mask_truncated: bool,
    places: range,
    answering: Answering | None = None,
) -> list[Trained]:
    """The answers of some of a generation's groups.

    Args:
      names: of the rewards.
      verifies: numbers of those that say whether an answer is right: `correct` is 1 or 0 then, -1 where none says it.
    """
    answering, found = answering or Answering(), []
    for place in places:
        group = generation.groups[place]
        for k, answer in enumerate(group.answers):
            reward = shaped.reward[place, k]
            columns = {
                "reward": float(np.nan_to_num(reward)),
                "rewarded": float(not np.isnan(reward)),
                "group_std": float(shaped.std[place]),
                "finished": float(answer.finished),
                "failed": float(generation.failed[place, k]),
                "answer_length": float(answer.written),
                "group": float(place),
                "correct": correctness(generation.rewards[place, k, list(verifies)]),
                **{f"reward:{name}": generation.rewards[place, k, f] for f, name in enumerate(names)},
            }
            spoken = not answering.rewarded or not np.isnan(reward)
            on = spoken and (answer.finished or not mask_truncated)
            advantage = np.full(len(answer.tokens), shaped.advantage[place, k], np.float32)
            drawn = answer.sampling_logps
            per_token = {ADVANTAGES: advantage, SAMPLING_LOGPS: drawn, OLD_LOGPS: drawn}
            number = place * len(group.answers) + k
            mask = None if answer.talk is None else answer.talk.mask
            own = drawn_by_policy(answering, k, len(group.answers)) and not np.isnan(drawn).any()
            found.append(Trained(number, group.prompt.ids, answer.tokens, on, per_token, columns, own, mask))
    return found


def drawn_by_policy(answering: Answering, k: int, n: int) -> bool:
    """Whether answer k of n was drawn from the policy's own distribution."""
    return answering.by != "teacher_mixture" and not (answering.opponents and k >= n // 2)


def correctness(values: np.ndarray) -> float:
    """1 where all that say anything say 1, 0 where one does not; -1 where none says anything."""
    known = values[~np.isnan(values)]
    return float(np.all(known >= 1)) if known.size else -1.0


def make_logps(scorer: Scorer, layout: Layout) -> Callable[[Tree, Batch], np.ndarray]:
    """`(the model's own tree, host batch) -> [R, S]` log-probs by the trainer, a microbatch at a time."""

    @jax.jit
    def run(params: Tree, batch: Batch) -> jax.Array:
        if layout.microbatches == 1:
            return scorer.logps(params, batch)
        micros = batch.split(layout.microbatches)
        stacked = jax.lax.map(functools.partial(scorer.logps, params), micros)
        return join_leading(stacked, batch.blocks)

    def logps(params: Tree, batch: Batch) -> np.ndarray:
        mesh = current_mesh()
        placed = batch if mesh is None else put_batch(batch, mesh)
        return np.asarray(to_host(settle(run(params, placed))))

    return logps
