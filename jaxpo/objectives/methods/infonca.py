"""Noise contrastive alignment from explicit rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.lists import Ranked

CERTAINTY = "authors' code; its default temperature of 1e-4 makes the best response the only target"


@dataclass(frozen=True)
class InfoNCA(ListMethod):
    """Cross-entropy between the distributions that scores and log-ratios give over a list's responses.

    Attributes:
      beta: scale of the implicit reward.
      alpha: temperature of the scores, in their units.
    """

    beta: float = number(0.01, above=0)
    alpha: float = number(1e-4, above=0)

    INFO = Info(
        name="infonca",
        family="lists",
        paper="Noise Contrastive Alignment of Language Models with Explicit Rewards",
        arxiv="2402.05369",
        certainty=CERTAINTY,
        aliases=("info_nca",),
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), networks=(("reference", "logps"),))

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import infonca

        rows = (ranked.candidates.logps, ranked.candidates.ref_logps, ranked.labels, ranked.present)
        return {"lists": infonca(*rows, beta=self.beta, alpha=self.alpha)}


@dataclass(frozen=True)
class NCA(ListMethod):
    """Each response of a list told from noise by itself, with the scores' distribution as weights.

    Attributes:
      beta: scale of the implicit reward.
      alpha: temperature of the scores, in their units.
    """

    beta: float = number(0.01, above=0)
    alpha: float = number(1e-4, above=0)

    INFO = Info(
        name="nca",
        family="lists",
        paper="Noise Contrastive Alignment of Language Models with Explicit Rewards",
        arxiv="2402.05369",
        certainty=CERTAINTY,
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), networks=(("reference", "logps"),))

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import nca

        rows = (ranked.candidates.logps, ranked.candidates.ref_logps, ranked.labels, ranked.present)
        return {"lists": nca(*rows, beta=self.beta, alpha=self.alpha)}
