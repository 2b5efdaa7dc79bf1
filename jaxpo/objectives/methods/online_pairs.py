"""Preference methods on pairs that the model itself wrote: online DPO, and XPO. No jax here at the top level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod
from jaxpo.objectives.methods.rollouts import Advantage, FromAnswers

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair

COLUMNS = ("chosen_score", "rejected_score", "chosen_finished", "rejected_finished", "own_chosen")
"""Of every pair: the rewards of its answers, whether they have an end, and whether the policy wrote the chosen one."""
SCORED_PAIRS = Needs(roles=("chosen", "rejected"), columns=COLUMNS, networks=(("reference", "logps"),))


@dataclass(frozen=True)
class OnlinePairMethod(FromAnswers, PairMethod):
    """A loss on pairs of answers of the model, ordered by their rewards.

    Attributes:
      beta: strength of the tie to the reference.
      loss_type: "sigmoid" (DPO's) or "ipo".
      missing_eos_penalty: subtracted from the reward of an answer without an end; None = nothing is.
    """

    beta: float = number(0.1, above=0)
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    missing_eos_penalty: float | None = number(None, at_least=0)

    COMPARES: ClassVar[bool] = False
    NEEDS = SCORED_PAIRS

    @property
    def weighs_pairs(self) -> bool:
        return False

    @property
    def advantage(self) -> Advantage:
        """Rewards are compared within a pair; nothing else is made of them."""
        return Advantage("none", "none")

    @property
    def answering(self) -> Answering:
        """The best and the worst answer of every group."""
        return Answering(examples="ranked", missing_eos_penalty=self.missing_eos_penalty)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """TRL's `objective/*`, `val/contain_eos_token`; means over the answers of the pairs that are trained on."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        def answers(chosen: Array, rejected: Array) -> Any:
            return masked_mean(jnp.stack([chosen, rejected]), jnp.stack([pair.present] * 2))

        kl = (pair.chosen.log_ratio, pair.rejected.log_ratio)
        scores = (pair.columns["chosen_score"], pair.columns["rejected_score"])
        return {
            "objective/kl": answers(*kl),
            "objective/entropy": answers(-pair.chosen.logps, -pair.rejected.logps),
            "objective/non_score_reward": answers(*(-self.beta * x for x in kl)),
            "objective/rlhf_reward": answers(*(s - self.beta * x for s, x in zip(scores, kl, strict=True))),
            "objective/scores": answers(*scores),
            "objective/scores_margin": masked_mean(scores[0] - scores[1], pair.present),
            "val/contain_eos_token": answers(pair.columns["chosen_finished"], pair.columns["rejected_finished"]),
        }


@dataclass(frozen=True)
class OnlineDPO(OnlinePairMethod):
    """DPO on the best and the worst of the answers that the model writes to a prompt.

    Attributes:
      beta: strength of the tie to the reference.
      loss_type: "sigmoid" (DPO's) or "ipo".
      missing_eos_penalty: subtracted from the reward of an answer without an end; None = nothing is.
    """

    INFO = Info(
        name="online_dpo",
        family="rollouts",
        paper="Direct Language Model Alignment from Online AI Feedback",
        arxiv="2402.04792",
        certainty="agrees with TRL's trainer at two answers per prompt; TRL trains on pairs of equal reward, which are "
        "left out here",
    )

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import online_dpo

        chosen, rejected, ref_chosen, ref_rejected = pair.logps
        how: dict[str, Any] = {"beta": self.beta, "loss_type": self.loss_type, "where": pair.present}
        return online_dpo(chosen, rejected, ref_chosen, ref_rejected, pair.present, **how)


@dataclass(frozen=True)
class XPO(OnlinePairMethod):
    """Online DPO of an answer of the policy against one of the reference, with a bonus for leaving the latter.

    Attributes:
      beta: strength of the tie to the reference.
      loss_type: "sigmoid" (DPO's) or "ipo".
      missing_eos_penalty: subtracted from the reward of an answer without an end; None = nothing is.
      alpha: weight of the bonus.
    """

    alpha: float = number(1e-5, at_least=0)

    INFO = Info(
        name="xpo",
        family="rollouts",
        paper="Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF",
        arxiv="2405.21046",
        certainty="paper, Algorithm 1; TRL's former trainer",
    )

    @property
    def answering(self) -> Answering:
        return Answering("policy_and_reference", examples="matched", missing_eos_penalty=self.missing_eos_penalty)

    def _sides(self, pair: Pair) -> tuple[Array, tuple[Array, ...]]:
        """Whether the policy's answer is the chosen one; its log-prob, the other's, and both under the reference."""
        import jax.numpy as jnp

        own, (chosen, rejected, ref_chosen, ref_rejected) = pair.columns["own_chosen"] > 0, pair.logps
        both = ((chosen, rejected), (ref_chosen, ref_rejected))
        return own, tuple(x for a, b in both for x in (jnp.where(own, a, b), jnp.where(own, b, a)))

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import xpo

        own, (first, second, ref_first, ref_second) = self._sides(pair)
        how: dict[str, Any] = {"beta": self.beta, "loss_type": self.loss_type, "where": pair.present}
        return xpo(first, second, ref_first, ref_second, own, alpha=self.alpha, **how)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """Besides those of online DPO `loss/dpo` and `loss/xpo`, and the scores of either writer's answers."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        own, sides = self._sides(pair)
        chosen, rejected = pair.columns["chosen_score"], pair.columns["rejected_score"]
        bonus = self.alpha * sides[1]
        return super().metrics(pair) | {
            "loss/dpo": masked_mean(self.loss(pair) - bonus, pair.present),
            "loss/xpo": masked_mean(bonus, pair.present),
            "objective/model_scores": masked_mean(jnp.where(own, chosen, rejected), pair.present),
            "objective/ref_scores": masked_mean(jnp.where(own, rejected, chosen), pair.present),
        }
