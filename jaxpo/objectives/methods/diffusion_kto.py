"""Diffusion-KTO: single images that are good or bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import ImageMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.denoising import Denoiser, Labelled


@dataclass(frozen=True)
class DiffusionKTO(ImageMethod):
    """Diffusion-KTO; its baseline is over the images of a whole step.

    Attributes:
      beta: strength of the tie to the reference, as of Diffusion-DPO.
      factor: of beta, as of Diffusion-DPO.
      desirable_weight: of good images.
      undesirable_weight: of bad images.
    """

    beta: float = number(5000.0, above=0)
    factor: float = number(0.5, above=0)
    desirable_weight: float = number(1.0, at_least=0)
    undesirable_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="diffusion_kto",
        family="images",
        paper="Aligning Diffusion Models by Optimizing Human Utility",
        arxiv="2404.04465",
        certainty="paper, Eq. 9; the scale of beta as in the code of Diffusion-DPO",
    )
    NEEDS = Needs(roles=("image",), columns=("label",), networks=((REFERENCE, "denoiser"),))
    COUPLED = True
    METRICS: ClassVar[tuple[str, ...]] = (
        "rewards/chosen",
        "rewards/rejected",
        "kl",
        "errors/image",
        "errors/ref_image",
    )

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Labelled:
        from jaxpo.objectives.families.denoising import labelled

        return labelled(how, params, frozen, batch, rng)

    def loss(self, features: Labelled) -> Array:
        from jaxpo.losses import diffusion_kto, diffusion_kto_kl

        errors, where = (features.errors, features.ref_errors), features.present
        return diffusion_kto(
            *errors,
            features.label,
            diffusion_kto_kl(*errors, where=where),
            beta=self.beta,
            factor=self.factor,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            where=where,
        )

    def common_metrics(self, features: Labelled) -> dict[str, Metric]:
        from jaxpo.objectives.families.denoising import labelled_metrics

        return dict(labelled_metrics(features, self.beta * self.factor))
