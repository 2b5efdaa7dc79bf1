"""Value-incentivised preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair

ROLE = "calibration"


@dataclass(frozen=True)
class VPO(PairMethod):
    """DPO with the value of its reward: optimism online, pessimism offline, by the likelihood of calibration responses.

    Attributes:
      form: "offline" raises the likelihood of calibration responses, "online" lowers it.
      calibration: the fixed distribution that they are of: "chosen", the chosen responses of the pairs; or "drawn", the
        column `calibration` of every row, a response of the reference, of an iterate, or of any other model
        (`Calibrate` draws it).
      beta: strength of the tie to the reference.
      alpha: weight of the value; None = 0.1 offline, 0.01 online. At 0 no calibration response is needed.
    """

    form: Literal["offline", "online"] = "offline"
    calibration: Literal["chosen", "drawn"] = "chosen"
    beta: float = number(0.1, above=0)
    alpha: float | None = number(None, at_least=0)

    INFO = Info(
        name="vpo",
        family="pairs",
        paper="Value-Incentivized Preference Optimization: A Unified Approach to Online and Offline RLHF",
        arxiv="2405.19320",
        certainty="derived from the paper's reward side; the weights and calibration distributions of its experiments "
        "are not known",
    )
    NEEDS = PAIRS_AND_REFERENCE
    METRICS = ("loss/value",)

    def __post_init__(self) -> None:
        if self.alpha == 0:
            object.__setattr__(self, "METRICS", ())
        elif self.calibration == "drawn":
            object.__setattr__(self, "NEEDS", replace(PAIRS_AND_REFERENCE, roles=("chosen", "rejected", ROLE)))

    def _calibration(self, pair: Pair) -> Side:
        return pair.others[ROLE] if ROLE in self.NEEDS.roles else pair.chosen

    def _terms(self, pair: Pair) -> tuple[Array, Array]:
        from jaxpo.losses import vpo

        side = self._calibration(pair)
        return vpo(
            *pair.logps,
            side.logps,
            side.ref_logps,
            form=self.form,
            beta=self.beta,
            alpha=self.alpha,
            where=pair.present,
            calibration_where=pair.present & (side.length > 0),
        )

    @property
    def _count(self) -> str:
        return f"{ROLE}s" if ROLE in self.NEEDS.roles else "pairs"

    def loss(self, pair: Pair) -> dict[str, Array]:
        prefer, value = self._terms(pair)
        if self._count == "pairs":
            return {"pairs": prefer + value}
        return {"pairs": prefer, self._count: value}

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`loss/value`: the weighted value term per calibration response."""
        if self.alpha == 0:
            return {}
        from jaxpo.objectives.base import masked_mean

        there = pair.present & (self._calibration(pair).length > 0)
        return {"loss/value": masked_mean(self._terms(pair)[1], there)}
