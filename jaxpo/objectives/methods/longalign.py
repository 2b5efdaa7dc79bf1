"""LongAlign: a model draws its captions, and learns from how a preference model sees that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import A_CAPTION, ImageMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.denoising import Denoiser
    from jaxpo.objectives.families.rewarded import Rewarded


@dataclass(frozen=True)
class LongAlign(ImageMethod):
    """LongAlign's reward stage. Captions alone are its data; images beside them are not read.

    The preference model is `beside.reward`, of the loss `denscore`. What all captions have in common is taken over the
    whole step, whatever its microbatches and devices.

    Attributes:
      omega: weight of what all captions share; 1 = the score itself.
      sampler_steps: of DDIM, from pure noise.
      kept_steps: those through which the gradient passes, evenly spread from a random start; it divides the others.
      guidance: of the sampler.
      decode: what is drawn is latents, of which `beside.decoder`, the folder `vae/` of a pipeline, makes pictures; the
        gradient passes through it.
      crop: share of the side that the preference model sees, at a random place; resized to what it reads. The authors
        cut 504 of 512 pixels, and their image tower reads 224.
    """

    omega: float = number(0.3, at_least=0)
    sampler_steps: int = number(50, at_least=1)
    kept_steps: int = number(5, at_least=1)
    guidance: float = number(7.5, at_least=0)
    decode: bool = False
    crop: float = number(504 / 512, above=0, at_most=1)

    INFO = Info(
        name="longalign",
        family="images",
        paper="Improving Long-Text Alignment for Text-to-Image Diffusion Models",
        arxiv="2410.11817",
        certainty="decomposition, loss and gradient route as in the authors' code",
    )
    NEEDS = replace(A_CAPTION, networks=(("reward", "network"),))
    COUPLED = True
    READS_WORDS: ClassVar[bool] = True
    BESIDE: ClassVar[Mapping[str, str]] = {"reward": "towers", "decoder": "decode"}
    SAMPLES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("reward", "reward/relevant", "reward/shared")

    def __post_init__(self) -> None:
        # What this configuration needs, over the class's default.
        if self.decode:
            networks = (*type(self).NEEDS.networks, ("decoder", "network"))
            object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, networks=networks))

    def problems(self) -> list[str]:
        found = super().problems()
        if not found and self.sampler_steps % self.kept_steps:
            found.append(
                f"longalign: kept_steps {self.kept_steps} does not divide sampler_steps {self.sampler_steps}, so that "
                "not every start would keep as many; choose a divisor."
            )
        return found

    @property
    def reads_empty(self) -> bool:
        return self.guidance != 1

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Rewarded:
        from jaxpo.objectives.families.rewarded import rewarded

        return rewarded(how, self, params, frozen, batch, rng)

    def loss(self, features: Rewarded) -> Array:
        from jaxpo.losses import longalign
        from jaxpo.losses.longalign import common_direction

        where = features.present
        direction = common_direction(features.texts, where=where)
        return longalign(features.images, features.texts, direction, omega=self.omega, where=where)

    def common_metrics(self, features: Rewarded) -> dict[str, Metric]:
        from jaxpo.objectives.families.rewarded import rewarded_metrics

        return dict(rewarded_metrics(features))
