"""Denscore: a preference model of long captions, segment by segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.images import ImageMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.denoising import Denoiser
    from jaxpo.objectives.families.rewarded import Fitting


@dataclass(frozen=True)
class Denscore(ImageMethod):
    """Denscore: of a pair of images the chosen one fits the caption better. The model has two towers."""

    MODEL: ClassVar[str] = "towers"
    READS_WORDS: ClassVar[bool] = True

    INFO = Info(
        name="denscore",
        family="pairs of images",
        paper="Improving Long-Text Alignment for Text-to-Image Diffusion Models",
        arxiv="2410.11817",
        certainty="reconstructed in the form of PickScore: the training code is not released",
    )
    NEEDS = Needs(roles=("chosen", "rejected"))
    METRICS: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Fitting:
        from jaxpo.objectives.families.rewarded import fitting

        return fitting(how.config, params, batch)

    def loss(self, features: Fitting) -> Array:
        from jaxpo.losses import denscore

        scores = features.scores
        return denscore(scores[:, 0], scores[:, 1], features.log_scale, where=features.present)

    def common_metrics(self, features: Fitting) -> dict[str, Metric]:
        from jaxpo.objectives.families.rewarded import fitting_metrics

        return dict(fitting_metrics(features))
