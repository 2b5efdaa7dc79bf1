"""HAPO: GRPO on rewards that compare an answer with the shortest right one that its problem ever had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.outcomes import Paid, replacing_problems
from jaxpo.objectives.methods.rollouts import Memory

if TYPE_CHECKING:
    import numpy as np

    from jaxpo.data.rows.formats import Row
    from jaxpo.objectives.methods.outcomes import Outcomes


@dataclass(frozen=True)
class HAPO(GRPO):
    """GRPO, with a length reward against the history of the problem: that of a right answer falls from 1 at length 0
    over 0 at the history to `floor`; a wrong answer is never paid for being short. Nothing is asked of lengths before a
    problem's first right answer, so that pressure begins in the second epoch.

    The history is a fold over the stage's ledger: a resumed run reads it there, and checkpoints do not hold it.

    Attributes:
      weight: of the length reward; above 1 a long right answer may be worth less than a wrong one.
      form: "cosine", or "linear" with a tolerance.
      history: of a problem's right answers the shortest ("min"), or their "mean".
      floor: the least length reward of a right answer.
      tolerance: share of the history that costs nothing, of the linear form.
      repetition: weight of the share of an answer's tokens that lie in a repeated n-gram, taken off its reward.
      repetition_n: that n.
      problem: column that names the problem, so that rows of one problem share a history; "" = each row is its own.
      beta: as of GRPO.
      epsilon: see there.
      epsilon_high: see there.
      delta: see there.
      importance_sampling_level: see there.
      loss_type: see there.
      scale_rewards: see there.
      kl_estimator: see there.
      use_bias_correction_kl: see there.
      importance_sampling_correction: see there.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
      geometric_mask: see there.
      off_policy_mask_threshold: see there.
      top_entropy_quantile: see there.
      sapo_temperature_pos: see there.
      sapo_temperature_neg: see there.
      vespo_k_pos: see there.
      vespo_lambda_pos: see there.
      vespo_k_neg: see there.
      vespo_lambda_neg: see there.
    """

    weight: float = number(1.0, at_least=0)
    form: Literal["cosine", "linear"] = "cosine"
    history: Literal["min", "mean"] = "min"
    floor: float = number(-0.7, at_least=-1, at_most=0)
    tolerance: float = number(0.1, at_least=0)
    repetition: float = number(0.0, at_least=0)
    repetition_n: int = number(3, at_least=1)
    problem: str = ""

    INFO = Info(
        name="hapo",
        family="rollouts",
        paper="Training Language Models to Reason Concisely via History-Aware Policy Optimization",
        arxiv="2505.11225",
        certainty="reward, floors, update rule and defaults are those of the official code; GRPO's own are TRL's",
        function="jaxpo.losses.hapo_rewards",
    )
    PAYS: ClassVar[bool] = True
    REMEMBERS: ClassVar[bool] = True

    def problems_in(self, stage: Any) -> list[str]:
        return replacing_problems(self.INFO.name, stage)

    def key(self, outcomes: Outcomes, group: int) -> str:
        """Names the problem of a group."""
        return str(outcomes.rows[group][self.problem]) if self.problem else f"row {outcomes.prompts[group]}"

    def check_rows(self, rows: Sequence[Row]) -> None:
        for row in rows if self.problem else ():
            if row.data.get(self.problem) in (None, ""):
                raise row.error(
                    f"column {self.problem!r} is empty or missing, which names the problem that a history is kept of.",
                    field=self.problem,
                    remedy="Give every row a name there, or leave hapo.problem out: each row is a problem then.",
                )

    def paid(self, rewards: np.ndarray, outcomes: Outcomes, memory: Memory) -> Paid:
        import numpy as np

        from jaxpo.losses import hapo_rewards, repeated_tokens

        known = [memory.get(self.key(outcomes, g)) for g in range(len(rewards))]
        history = np.asarray([np.nan if found is None else found[0] for found in known])
        whole = hapo_rewards(
            outcomes.lengths.astype(float),
            outcomes.right,
            history[:, None],
            weight=self.weight,
            form=self.form,
            floor=self.floor,
            tolerance=self.tolerance,
        )
        # The stage's own sum says how right an answer is; the length reward is added to it.
        found = rewards + np.where(outcomes.known, whole - outcomes.right, 0.0)
        if self.repetition > 0:
            repeated = [[repeated_tokens(tokens, self.repetition_n) for tokens in group] for group in outcomes.tokens]
            found = found - self.repetition * np.asarray(repeated)
        here = ~np.isnan(history)
        figures = {"hapo/history_share": float(here.mean()), "hapo/problems": float(len(memory))}
        if here.any():
            figures["hapo/history_mean"] = float(history[here].mean())
        return Paid(found, figures)

    def remembered(self, memory: Memory, outcomes: Outcomes) -> Memory:
        from jaxpo.losses import hapo_history

        after = dict(memory)
        for g in range(len(outcomes.lengths)):
            key = self.key(outcomes, g)
            found = hapo_history(after.get(key), outcomes.lengths[g], outcomes.right[g], mode=self.history)
            if found is not None:
                after[key] = found
        return after
