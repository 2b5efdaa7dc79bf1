"""Step-level DPO on the siblings of a search tree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class MCTSDPO(PairMethod):
    """DPO on two steps after the same beginning: their tokens alone, each label as sure as the visits make it.

    Rows are those of `TreeSearch`: both responses with what they share, `chosen_spans` and `rejected_spans` where the
    two differ, and `smoothing` by the visits.

    Attributes:
      beta: strength of the tie to the reference.
      length_power: how much of a step's length its log-ratio is divided by; 1 is the mean per token.
      form: "sigmoid", or "ipo", which takes no smoothing.
    """

    beta: float = number(0.1, above=0)
    length_power: float = number(0.0, at_least=0, at_most=1)
    form: Literal["sigmoid", "ipo"] = "sigmoid"

    INFO = Info(
        name="mcts_dpo",
        family="pairs",
        paper="Monte Carlo Tree Search Boosts Reasoning via Iterative Preference Learning",
        arxiv="2405.00451",
        certainty="authors' code",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, columns=("smoothing",), per_token=("phrase",))
    TOKENS = True

    def _steps(self, pair: Pair) -> tuple[Array, Array]:
        """`[N, T]` the tokens of each step."""
        marked = zip(pair.token_columns("phrase"), pair.token_masks, strict=True)
        chosen, rejected = (mask & (phrase > 0) for phrase, mask in marked)
        return chosen, rejected

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import mcts_dpo

        return mcts_dpo(
            *pair.token_logps,
            *self._steps(pair),
            pair.columns["smoothing"],
            beta=self.beta,
            length_power=self.length_power,
            form=self.form,
            where=pair.present,
        )

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`rewards/*` of the steps, divided by their length as in the loss: what both responses share is in neither."""
        import jax.numpy as jnp

        from jaxpo.losses.mcts_dpo import step_log_ratio
        from jaxpo.objectives.base import masked_mean

        here, (p_w, p_l, r_w, r_l), (w, l) = pair.present, pair.token_logps, self._steps(pair)  # noqa: E741
        chosen, rejected = (
            self.beta * step_log_ratio(p, r, step, here, self.length_power)
            for p, r, step in ((p_w, r_w, w), (p_l, r_l, l))
        )
        return {
            "rewards/chosen": masked_mean(chosen, here),
            "rewards/rejected": masked_mean(rejected, here),
            "rewards/margins": masked_mean(chosen - rejected, here),
            "rewards/accuracies": masked_mean((chosen > rejected).astype(jnp.float32), here),
        }
