"""Self-NPO: a negative model, fine-tuned on its own blurred estimates of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import REFERENCE, Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import A_CAPTION, ImageMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.denoising import Denoiser
    from jaxpo.objectives.families.estimates import Estimated


@dataclass(frozen=True)
class SelfNPO(ImageMethod):
    """Self-NPO. The teacher is the reference: frozen, or with `sync_ref_model` an average of the trained weights.

    Attributes:
      start: "image", an image of the data, noised (the authors' code); "noise", pure noise, rolled out to a random
        time (the paper), of captions alone.
      truncation: steps of the teacher's sampler before its estimate, K; of "image" alone.
      sampler_steps: times of the sampler's whole grid.
      teacher_w: the teacher's guidance is e_c + w (e_c - e_u): 0 is the paper; -1 (no prompt at all) the code for
        SD 1.5, -5 that for SDXL.
      form: "huber" is the code, "squared" the paper.
      huber_width: c of the pseudo-Huber loss.
    """

    start: Literal["image", "noise"] = "image"
    truncation: int = number(5, at_least=0)
    sampler_steps: int = number(25, at_least=1)
    teacher_w: float = number(0.0)
    form: Literal["huber", "squared"] = "huber"
    huber_width: float = number(1e-3, above=0)

    INFO = Info(
        name="self_npo",
        family="images",
        paper="Self-NPO: Data-Free Diffusion Model Enhancement via Truncated Diffusion Fine-Tuning",
        arxiv="2505.11777",
        certainty="loss, grid and guidance as in the authors' code; the paper's form from notes on it",
    )
    NEEDS = Needs(roles=("image",), networks=((REFERENCE, "denoiser"),))
    SAMPLES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("estimate_error",)

    def __post_init__(self) -> None:
        # What this configuration needs, over the class's default.
        if self.start == "noise":
            object.__setattr__(self, "NEEDS", replace(type(self).NEEDS, roles=A_CAPTION.roles))

    @property
    def reads_empty(self) -> bool:
        return self.teacher_w != 0

    def encoded(self, how: Denoiser, params: Any, frozen: Any, batch: ImageBatch, rng: Array | None) -> Estimated:
        from jaxpo.objectives.families.estimates import estimated

        return estimated(how, self, params, frozen, batch, rng)

    def loss(self, features: Estimated) -> Array:
        from jaxpo.losses import self_npo

        options: Any = {"form": self.form, "width": self.huber_width}
        return self_npo(features.estimate, features.target, where=features.present, **options)

    def common_metrics(self, features: Estimated) -> dict[str, Metric]:
        from jaxpo.losses.denoising import squared_error
        from jaxpo.objectives.base import masked_mean

        errors = squared_error(features.estimate, features.target, where=features.present)
        return {"estimate_error": masked_mean(errors, features.present)}
