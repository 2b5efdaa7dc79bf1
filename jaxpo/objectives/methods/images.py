"""Methods on images and on pairs of images: what they share. No jax at the top level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.base import ArrayMethod, Encode
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Counts, Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.denoising import Denoiser, Draws
    from jaxpo.objectives.families.image_pairs import ComparedImages, Noisy

A_CAPTION = Needs(roles=("caption",))
"""Of methods that draw their own images."""
ONE_IMAGE = Needs(roles=("image",))
TWO_IMAGES = Needs(roles=("chosen", "rejected"), networks=((REFERENCE, "denoiser"),))


@dataclass(frozen=True)
class ImageMethod(ArrayMethod):
    """A term per example; the loss is their mean by weight.

    Attributes:
      MODEL: what of its family the trained model must have: "denoise", or "towers".
      READS_WORDS: a preference model reads the captions' words, for which states of another encoder do not do.
      BESIDE: name of a network beside it -> what of its family that must have.
      SAMPLES: it takes steps of a sampler from the last time, at which something of the image must be left.
    """

    MODEL: ClassVar[str] = "denoise"
    READS_WORDS: ClassVar[bool] = False
    BESIDE: ClassVar[Mapping[str, str]] = {"reference": "denoise"}
    SAMPLES: ClassVar[bool] = False

    @property
    def reads_empty(self) -> bool:
        """Whether a network sees the empty caption."""
        return False

    def counts(self, batch: ImageBatch) -> dict[str, Array]:  # type: ignore[override]
        from jaxpo.objectives.families.denoising import image_counts

        return image_counts(batch)

    def reduce(self, features: Any, terms: Any, counts: Counts) -> Array:
        from jaxpo.objectives.families.denoising import reduced

        return reduced(features, terms, counts)

    @abstractmethod
    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Any:
        """What `loss` reads, example axis N first; rng is None in evaluation."""

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        from jaxpo.objectives.families.denoising import Denoiser

        def encode(params: Any, frozen: Any, batch: Any, rng: Array | None) -> tuple[Any, dict[str, Any]]:
            return self.encoded(Denoiser.of(scorer, options.scorers), params, frozen, batch, rng), {}

        return encode


@dataclass(frozen=True)
class ComparedMethod(ImageMethod):
    """A method that compares the errors of both images of a pair with a frozen reference's."""

    METRICS: ClassVar[tuple[str, ...]] = (
        *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
        *(f"errors/{name}" for name in ("chosen", "rejected", "ref_chosen", "ref_rejected")),
    )

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> ComparedImages:
        from jaxpo.objectives.families.image_pairs import compared

        draws = how.draw(batch, rng)
        noisy = self.noisy(how, params, batch, draws)
        return compared(how, params, frozen, batch, draws, noisy, self.user(batch, draws, rng))

    def noisy(self, how: Denoiser, params: Any, batch: ImageBatch, draws: Draws) -> Noisy:
        """Where the two models are compared: at forward noise, unless a method says otherwise."""
        from jaxpo.objectives.families.image_pairs import forward_noise

        return forward_noise(how, batch, draws)

    def user(self, batch: ImageBatch, draws: Draws, rng: Array | None) -> Array | None:
        """`[N, M, U]` of the trained model's users; None = it sees none."""
        return None

    @property
    def scale(self) -> float:
        """What the difference of errors is multiplied with in the loss, for the metrics."""
        return float(getattr(self, "beta", 1.0)) * float(getattr(self, "factor", 0.5))

    def common_metrics(self, features: Any) -> dict[str, Metric]:
        from jaxpo.objectives.families.image_pairs import compared_metrics

        return dict(compared_metrics(self.preferred_first(features), self.scale))

    def preferred_first(self, features: ComparedImages) -> ComparedImages:
        """The pairs as metrics read them: "chosen" is the image that the loss raises, by default the chosen one."""
        return features

    def right(self, features: Any) -> tuple[Array, Array]:
        e_w, e_l, r_w, r_l = self.preferred_first(features).sides
        return (e_w - r_w) < (e_l - r_l), features.present
