"""Provably robust DPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class RDPORobust(PairMethod):
    """DPO whose expectation over label flips of a known rate is the clean loss.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped, below 1/2.
      annotator_label_smoothing: one such probability for each annotator, instead of `label_smoothing`; rows then carry
        the column `annotator`, an integer that counts from 0. `jaxpo data construct lcpo` estimates reliabilities,
        which are 1 minus these.
    """

    beta: float = number(0.1, above=0)
    label_smoothing: float = number(0.1, at_least=0)
    annotator_label_smoothing: tuple[float, ...] = ()

    INFO = Info(
        name="rdpo_robust",
        family="pairs",
        paper="Provably Robust DPO: Aligning Language Models with Noisy Feedback",
        arxiv="2403.00409",
        certainty="paper's abstract and TRL's loss_type robust, with which it agrees; rates per annotator are ours",
        aliases=("robust",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def __post_init__(self) -> None:
        if self.annotator_label_smoothing:
            object.__setattr__(self, "NEEDS", replace(PAIRS_AND_REFERENCE, columns=("annotator",)))

    def problems(self) -> list[str]:
        """Rates of 1/2 and more leave nothing to learn: the correction divides by 1 - 2 e."""
        found = super().problems()
        rates = {"label_smoothing": self.label_smoothing}
        rates |= {f"annotator_label_smoothing[{i}]": e for i, e in enumerate(self.annotator_label_smoothing)}
        for name, e in rates.items():
            bad = not isinstance(e, (int, float)) or not 0 <= e < 0.5
            if bad and not any(f" {name} is" in p for p in found):
                found.append(f"rdpo_robust: {name} is {e!r} but must be a number at least 0 and below 0.5.")
        return found

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Every annotator must have a rate."""
        import numpy as np

        known = len(self.annotator_label_smoothing)
        if not known or "annotator" not in columns or np.size(columns["annotator"]) == 0:
            return []
        low, high = int(np.min(columns["annotator"])), int(np.max(columns["annotator"]))
        if low >= 0 and high < known:
            return []
        return [
            f"rdpo_robust: column 'annotator' runs from {low} to {high}, but annotator_label_smoothing has {known} "
            "entries; give one for every annotator, counted from 0."
        ]

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import rdpo_robust

        return rdpo_robust(*pair.logps, beta=self.beta, label_smoothing=self.rate(pair), where=pair.present)

    def rate(self, pair: Pair) -> float | Array:
        """The flip rate, or each pair's `[N]`."""
        import jax.numpy as jnp

        if not self.annotator_label_smoothing:
            return self.label_smoothing
        who = pair.columns["annotator"]
        # An annotator without a rate gives NaN, which stops the run, instead of another one's rate.
        who = jnp.where(who < 0, len(self.annotator_label_smoothing), who)
        rates = jnp.asarray(self.annotator_label_smoothing, jnp.float32)
        return rates.at[who].get(mode="fill", fill_value=jnp.nan)
