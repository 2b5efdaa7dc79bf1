"""From rewards of answers to advantages of tokens: the KL taken off, and what a method makes of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpo.losses import token_rewards
from jaxpo.objectives.families.rollouts import ADVANTAGES, OLD_VALUES, RETURNS
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
    mask_truncated: bool = False,
) -> tuple[Shaped, dict[str, Sequence[np.ndarray]]]:
    """A generation's rewards, compared; and name -> an array per answer, of what its tokens are trained with.

    Args:
      method: of the rollouts family.
      weights: of the rewards.
      longest: tokens of an answer.
      mask_truncated: answers without an end are not trained on: their rewards count, but nothing is whitened over them.
    """
    kept = np.asarray([[a.finished or not mask_truncated for a in group.answers] for group in generation.groups])
    lengths = np.asarray([[answer.written for answer in group.answers] for group in generation.groups])
    grid = padded(generation.groups, longest)
    kl = np.zeros(grid.mask.shape) if method.penalty is None else token_kl(method.penalty, grid, recorded.columns)
    lost = penalties(method.answering, generation.groups, recorded.kl_coef * kl.sum(axis=1).reshape(lengths.shape))
    values = generation.rewards
    found = shaped(values, weights, method.advantage, lengths * kept, aggregation=aggregation, penalties=lost)
    if not method.BY_TOKEN:
        every = np.broadcast_to(found.advantage.reshape(-1, 1), grid.mask.shape)
        return found, {**recorded.columns, ADVANTAGES: grid.parts(every)}
    return found, {**recorded.columns, **_by_token(found, recorded, kl, grid, method, kept)}


def _by_token(
    found: Shaped, recorded: Recorded, kl: np.ndarray, grid: Padded, method: Any, kept: np.ndarray
) -> dict[str, Sequence[np.ndarray]]:
    """What a method makes of the rewards of tokens; 0 in answers that have none, or are left out."""
    score = found.reward.reshape(-1)
    mask = grid.mask & (kept.reshape(-1) & ~np.isnan(score))[:, None]
    rewards = token_rewards(np.nan_to_num(score), kl, mask, kl_coef=recorded.kl_coef)
    values = grid.rows(recorded.columns[OLD_VALUES]) if OLD_VALUES in recorded.columns else np.zeros(mask.shape)
    advantages, returns = method.token_advantages(rewards, values, mask)
    return {ADVANTAGES: grid.parts(advantages), RETURNS: grid.parts(returns)}
