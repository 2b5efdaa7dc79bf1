"""DLER: truncation as the only penalty of length, under batch-whitened advantages and a higher upper clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.outcomes import Paid
from jaxpo.objectives.methods.rollouts import ROLLOUTS, ROLLOUTS_AND_REFERENCE, Advantage, Memory, PolicyGradient

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts
    from jaxpo.objectives.methods.outcomes import Outcomes


@dataclass(frozen=True)
class DLER(PolicyGradient):
    """An answer beyond its limit is worth nothing; advantages are whitened over the batch, not over the group.

    With the stage's `dynamic_sampling` questions whose answers are all right or all wrong are replaced by others; it
    looks at rewards before truncation, as the released code does. Those that remain are left out by `filter_groups`.

    Attributes:
      limit: tokens of an answer; None = max_completion_length, where an answer without an end is beyond it.
      tiers: (share, limit) with rising shares: the limit of a question from this share of right answers on, such as
        ((0.5, 2000),): shorter for those that are solved already.
      truncated_factor: share of its reward that an answer beyond the limit keeps: 0 in the paper, 0.1 in its code. A
        negative one it keeps whole.
      filter_groups: leave out the questions that still have one reward for all answers.
      whitening: over the "tokens" of a batch, so that long answers weigh more (the code), or over its "answers" (the
        paper). A batch is a generation.
      boost: added to the advantages of answers whose reward is at least 1: 0 in the paper, 0.1 in its code.
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1.
      dual_clip: bound on the ratio where the advantage is negative.
      beta: weight of the KL to the reference, by k2; at 0 there is no reference.
      importance_sampling_correction: as of GRPO.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
    """

    limit: int | None = number(None, above=0)
    tiers: tuple[tuple[float, int], ...] = ()
    truncated_factor: float = number(0.0, at_least=0, at_most=1)
    filter_groups: bool = True
    whitening: Literal["tokens", "answers"] = "tokens"
    boost: float = number(0.0, at_least=0)
    epsilon: float = number(0.2, above=0, at_most=1)
    epsilon_high: float = number(0.28, above=0)
    dual_clip: float = number(10.0, above=1)
    beta: float = number(5e-4, at_least=0)

    INFO = Info(
        name="dler",
        family="rollouts",
        paper="DLER: Doing Length pEnalty Right: Incentivizing More Intelligence per Token via Reinforcement Learning",
        arxiv="2510.15110",
        certainty="the paper's equations and recipe; factor, boost, whitening over tokens and the filter on raw "
        "rewards are its code's",
    )
    NEEDS = ROLLOUTS_AND_REFERENCE
    PAYS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta == 0:
            object.__setattr__(self, "NEEDS", ROLLOUTS)

    def problems(self) -> list[str]:
        found = super().problems()
        shares, limits = [share for share, _ in self.tiers], [limit for _, limit in self.tiers]
        if any(not 0 < share <= 1 for share in shares) or sorted(set(shares)) != shares:
            found.append(f"dler.tiers: the shares {shares} must rise within (0, 1]; such as ((0.5, 2000),).")
        falls = [limit for limit in (self.limit, *limits) if limit is not None]
        if any(limit < 1 for limit in limits) or sorted(falls, reverse=True) != falls:
            found.append(
                f"dler.tiers: the limits {falls} must not rise with the share of right answers; a question that is "
                "solved already has the shorter one."
            )
        if self.dual_clip <= 1 + self.epsilon_high:
            found.append(f"dler.dual_clip: {self.dual_clip:g} must be above 1 + epsilon_high ({self.epsilon_high:g}).")
        return found

    def problems_in(self, stage: Any) -> list[str]:
        found, most = [], stage.max_completion_length
        beyond = [limit for limit in (self.limit, *(limit for _, limit in self.tiers)) if (limit or 0) > most]
        if beyond:
            found.append(
                f"loss: dler.limit and its tiers: {beyond} is more than the {most} tokens that an answer may have "
                "(max_completion_length), so that nothing would be beyond it; give less, or raise that."
            )
        if stage.mask_truncated_completions:
            found.append(
                "mask_truncated_completions: answers that were cut off are those that dler takes rewards from, and "
                "left out they would teach nothing; leave it out."
            )
        return found

    @property
    def advantage(self) -> Advantage:
        return Advantage("mean", self.whitening, boost=self.boost)

    def paid(self, rewards: np.ndarray, outcomes: Outcomes, memory: Memory) -> Paid:
        import numpy as np

        from jaxpo.losses import dler_limits, dler_rewards, dler_truncated

        limit = outcomes.longest if self.limit is None else self.limit
        limits = dler_limits(outcomes.correct, outcomes.known, limit=limit, tiers=self.tiers)
        truncated = dler_truncated(outcomes.lengths.astype(float), outcomes.finished, limits[:, None])
        found = dler_rewards(rewards, truncated, factor=self.truncated_factor)
        figures = {"dler/truncated": float(truncated.mean())}
        if not self.filter_groups:
            return Paid(found, figures)
        flat = np.asarray([len(set(group[~np.isnan(group)].tolist())) < 2 for group in rewards])
        figures["dler/filtered"] = float(flat.mean())
        return Paid(found, figures, np.broadcast_to(~flat[:, None], found.shape))

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        import jax.numpy as jnp

        from jaxpo.losses import dler

        found = dler(
            x.logps,
            x.old_logps,
            x.ref_logps,
            x.advantages,
            x.mask,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            dual_clip=self.dual_clip,
            beta=self.beta,
            sampler_weights=self.corrections(x),
        )
        return {"tokens": jnp.sum(found, axis=-1)}

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`clip_ratio/high_mean`: share of tokens whose ratio is clipped from above; `kl` with a reference."""
        import jax.numpy as jnp

        from jaxpo.losses import kl_k2
        from jaxpo.losses.importance import log_ratios
        from jaxpo.objectives.base import masked_mean

        w = jnp.exp(log_ratios(x.logps, x.old_logps, x.mask))
        high = (w > 1 + self.epsilon_high) & (x.advantages > 0)
        found: dict[str, Metric] = {"clip_ratio/high_mean": masked_mean(high.astype(jnp.float32), x.mask)}
        if self.beta > 0:
            found["kl"] = masked_mean(kl_k2(x.logps, x.ref_logps, where=x.mask), x.mask)
        return found
