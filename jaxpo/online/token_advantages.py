"""From rewards of answers to advantages of tokens: the KL taken off, and what a method makes of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxpo.losses import even_rewards, token_rewards
from jaxpo.objectives.families.rollouts import ADVANTAGES, OLD_VALUES, RETURNS
from jaxpo.objectives.methods.outcomes import Paid
from jaxpo.objectives.methods.rollouts import stream_column
from jaxpo.online.advantages import Shaped, shaped
from jaxpo.online.examples import penalties
from jaxpo.online.generation import Generation
from jaxpo.online.penalty import Padded, padded, token_kl
from jaxpo.online.recording import Recorded


def made_of(
    generation: Generation,
    recorded: Recorded,
    method: Any,
    weights: np.ndarray,
    *,
    aggregation: str,
    longest: int,
    names: Sequence[str] = (),
    paid: Callable[[np.ndarray], Paid] | None = None,
    mask_truncated: bool = False,
) -> tuple[Shaped, dict[str, Sequence[np.ndarray]]]:
    """A generation's rewards, compared; and name -> an array per answer, of what its tokens are trained with.

    Args:
      method: of the rollouts family.
      weights: of the rewards.
      names: of the rewards, for a method that has a stream for some of them.
      longest: tokens of an answer.
      paid: see `jaxpo.online.advantages.shaped`.
      mask_truncated: answers without an end are not trained on: their rewards count, but nothing is whitened over them.
    """
    kept = np.asarray([[a.finished or not mask_truncated for a in group.answers] for group in generation.groups])
    lengths = np.asarray([[answer.written for answer in group.answers] for group in generation.groups])
    grid = padded(generation.groups, longest)
    kl = np.zeros(grid.mask.shape) if method.penalty is None else token_kl(method.penalty, grid, recorded.columns)
    values = generation.rewards
    lost = penalties(method.answering, generation.groups, recorded.kl_coef * kl.sum(axis=1).reshape(lengths.shape))
    comparable = lengths * kept
    found = shaped(values, weights, method.advantage, comparable, aggregation=aggregation, penalties=lost, paid=paid)
    if not method.BY_TOKEN:
        every = np.broadcast_to(found.advantage.reshape(-1, 1), grid.mask.shape)
        return found, {**recorded.columns, ADVANTAGES: grid.parts(every)}
    scores = {"": found.reward}
    if len(method.streams) > 1:
        scores = {name: values[..., names.index(name)] for name in method.streams[1:]}
        lacking = np.any([np.isnan(score) for score in scores.values()], axis=0)
        found = replace(found, reward=np.where(lacking, np.nan, found.reward))
    return found, {**recorded.columns, **_by_token(scores, recorded, kl, grid, method, kept & found.kept)}


def _by_token(
    scores: Mapping[str, np.ndarray], recorded: Recorded, kl: np.ndarray, grid: Padded, method: Any, kept: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    """What a method makes of the rewards of tokens, stream by stream; 0 in answers that lack a reward or are left out.

    Args:
      scores: `[G, K]` of every stream that has some.
      kept: `[G, K]`, whether an answer is trained on.
    """
    missing = np.any([np.isnan(score) for score in scores.values()], axis=0).reshape(-1)
    mask = grid.mask & (kept.reshape(-1) & ~missing)[:, None]
    found: dict[str, Sequence[np.ndarray]] = {}
    for stream in method.streams:
        score = np.nan_to_num(scores.get(stream, np.zeros(len(mask)))).reshape(-1)
        last = np.zeros_like(score) if method.spreads else score
        coef = 0.0 if stream else recorded.kl_coef
        rewards = token_rewards(last, kl, mask, kl_coef=coef)
        if method.spreads:
            rewards = rewards + even_rewards(score, mask)
        old = stream_column(OLD_VALUES, stream)
        values = grid.rows(recorded.columns[old]) if old in recorded.columns else np.zeros(mask.shape)
        advantages, returns = method.token_advantages(rewards, values, mask)
        found[stream_column(ADVANTAGES, stream)] = grid.parts(advantages)
        found[stream_column(RETURNS, stream)] = grid.parts(returns)
    return found
