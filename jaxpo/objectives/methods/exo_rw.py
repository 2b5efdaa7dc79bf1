"""Efficient exact optimisation from rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.lists import Ranked


@dataclass(frozen=True)
class EXORW(ListMethod):
    """Reverse KL between the distributions that log-ratios and scores give over a list's responses.

    Attributes:
      beta: scale of the implicit reward (the paper's beta_pi).
      beta_r: temperature of the scores, in their units.
    """

    beta: float = number(0.1, above=0)
    beta_r: float = number(0.1, above=0)

    INFO = Info(
        name="exo_rw",
        family="lists",
        paper="Towards Efficient Exact Optimization of Language Model Alignment",
        arxiv="2402.00856",
        certainty="authors' code; its scripts use beta and beta_r of 0.1 (IMDB) and 0.5 (TL;DR)",
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), networks=(("reference", "logps"),))

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import exo_rw

        rows = (ranked.candidates.logps, ranked.candidates.ref_logps, ranked.labels, ranked.present)
        return {"lists": exo_rw(*rows, beta=self.beta, beta_r=self.beta_r)}
