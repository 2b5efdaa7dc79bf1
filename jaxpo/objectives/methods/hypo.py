"""Hybrid preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.features import Shape
    from jaxpo.objectives.families.hybrid import PairsAndAnswers


@dataclass(frozen=True)
class HyPO(RolloutMethod):
    """DPO on offline pairs, and the reverse KL to the reference on answers that the policy writes to their prompts.

    Nobody labels the answers. Both terms are of one step: a `Hybrid` stage joins the pairs with the answers.

    Attributes:
      beta: strength of DPO's tie to the reference, which holds for the responses of the pairs alone.
      kl_weight: lambda, weight of the KL; of whole answers, so that 1e-4 is not small for long ones.
      leave_one_out: an answer's log-ratio less the mean of the others to its prompt weighs its score; False = as it is.
    """

    beta: float = number(0.05, above=0)
    kl_weight: float = number(1e-4, at_least=0)
    leave_one_out: bool = True

    INFO = Info(
        name="hypo",
        family="rollouts",
        paper="The Importance of Online Data: Understanding Preference Fine-tuning via Coverage",
        arxiv="2406.01462",
        certainty="the only unbiased gradient of the paper's objective; its code could not be read, and the defaults "
        "are from memory of its appendix",
    )
    NEEDS = Needs(
        roles=("chosen", "rejected", "completion"), per_token=ROLLOUTS.per_token, networks=((REFERENCE, "logps"),)
    )
    COUPLED: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("loss/dpo",)

    @property
    def advantage(self) -> Advantage:
        """There are no rewards."""
        return Advantage("none", "none")

    @property
    def answering(self) -> Answering:
        """Unlabelled answers of the policy."""
        return Answering(rewarded=False)

    def shape(self) -> Shape:
        from jaxpo.objectives.families.hybrid import HYBRID_SHAPE

        return HYBRID_SHAPE

    def _dpo(self, x: PairsAndAnswers) -> Array:
        from jaxpo.losses import dpo

        return dpo(*x.pair.logps, beta=self.beta, where=x.pair.present)

    def terms(self, x: PairsAndAnswers, max_completion_length: int) -> dict[str, Array]:  # type: ignore[override]
        import jax.numpy as jnp

        from jaxpo.losses import hypo, hypo_weights
        from jaxpo.objectives.families.rollouts import of_answers

        answers = x.answers
        # Of the policy that drew them: where they serve several steps the log-probs of before the first one.
        drawn = of_answers(answers.old_logps, answers.mask) - answers.answer.ref_logps
        groups = answers.columns["group"].astype(jnp.int32)
        weights = hypo_weights(drawn, groups, leave_one_out=self.leave_one_out, where=x.trained)
        kl = hypo(answers.answer.logps, weights, kl_weight=self.kl_weight, where=x.trained)
        return {"pairs": self._dpo(x), "answers": kl}

    def metrics(self, x: PairsAndAnswers) -> dict[str, object]:  # type: ignore[override]
        """`loss/dpo`, which the loss is up to a surrogate whose value means nothing; `kl` is the KL's estimate."""
        from jaxpo.objectives.base import masked_mean

        return {"loss/dpo": masked_mean(self._dpo(x), x.pair.present)}
