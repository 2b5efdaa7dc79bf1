"""Pre-training of models that denoise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import ONE_IMAGE, ImageMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.denoising import Denoised, Denoiser


@dataclass(frozen=True)
class Denoising(ImageMethod):
    """Squared error of what the model predicts of a noisy image.

    Attributes:
      caption_dropout: share of the examples that are trained with the empty caption, which guidance needs.
      snr_limit: gamma of the min-SNR weights, 5 in their paper; None = no weights.
    """

    caption_dropout: float = number(0.1, at_least=0, at_most=1)
    snr_limit: float | None = number(None, above=0)

    INFO = Info(
        name="denoising",
        family="images",
        paper="Denoising Diffusion Probabilistic Models",
        arxiv="2006.11239",
        certainty="paper, Eq. 14; min-SNR weights of arXiv:2303.09556; agrees with diffusers' training scripts",
    )
    NEEDS = ONE_IMAGE
    METRICS: ClassVar[tuple[str, ...]] = ("denoising_error", "shuffled_error")

    @property
    def reads_empty(self) -> bool:
        return self.caption_dropout > 0

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Denoised:
        from jaxpo.objectives.families.denoising import denoised

        return denoised(how, params, batch, rng, self.caption_dropout)

    def loss(self, features: Denoised) -> Array:
        from jaxpo.losses import denoising

        kind, where = features.parameterisation, features.present
        return denoising(
            features.errors, features.alpha_bars, parameterisation=kind, snr_limit=self.snr_limit, where=where
        )

    def common_metrics(self, features: Denoised) -> dict[str, Metric]:
        from jaxpo.objectives.families.denoising import denoised_metrics

        return dict(denoised_metrics(features))
