"""Diffusion-NPO: a model of what people dislike, for the negative side of guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import TWO_IMAGES, ComparedMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.image_pairs import ComparedImages


@dataclass(frozen=True)
class DiffusionNPO(ComparedMethod):
    """Diffusion-DPO with the two images exchanged; `jaxpo generate --negative` samples beside what it trains.

    Attributes:
      beta: strength of the tie to the reference, as of Diffusion-DPO.
      factor: of beta; the authors' adapters have no 1/2.
    """

    beta: float = number(500.0, above=0)
    factor: float = number(1.0, above=0)

    INFO = Info(
        name="diffusion_npo",
        family="pairs of images",
        paper="Diffusion-NPO: Negative Preference Optimization for Better Preference Aligned Generation",
        arxiv="2505.11245",
        certainty="paper; factor and beta as in the authors' code",
    )
    NEEDS = TWO_IMAGES

    def preferred_first(self, features: ComparedImages) -> ComparedImages:
        """The rejected image, which this model is to prefer."""
        return features.turned()

    def loss(self, features: ComparedImages) -> Array:
        from jaxpo.losses import diffusion_npo

        return diffusion_npo(*features.sides, beta=self.beta, factor=self.factor, where=features.present)
