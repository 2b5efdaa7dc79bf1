"""Diffusion-DPO: direct preference optimisation of models that denoise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import TWO_IMAGES, ComparedMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.image_pairs import ComparedImages


@dataclass(frozen=True)
class DiffusionDPO(ComparedMethod):
    """Diffusion-DPO.

    Attributes:
      beta: strength of the tie to the reference; large, as errors are means over dimensions.
      factor: 0.5 is the authors' code; 1 a widely copied variant with adapters, whose beta of 500 is 1000 here.
    """

    beta: float = number(5000.0, above=0)
    factor: float = number(0.5, above=0)

    INFO = Info(
        name="diffusion_dpo",
        family="pairs of images",
        paper="Diffusion Model Alignment Using Direct Preference Optimization",
        arxiv="2311.12908",
        certainty="paper, Eq. 14; factor and scale of beta as in the authors' code",
    )
    NEEDS = TWO_IMAGES

    def loss(self, features: ComparedImages) -> Array:
        from jaxpo.losses import diffusion_dpo

        return diffusion_dpo(*features.sides, beta=self.beta, factor=self.factor, where=features.present)
