"""DDIM-InPO: Diffusion-DPO at the latents that belong to the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import TWO_IMAGES, ComparedMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.families.denoising import Denoiser, Draws
    from jaxpo.objectives.families.image_pairs import ComparedImages, Noisy


@dataclass(frozen=True)
class InversionMethod(ComparedMethod):
    """A comparison at latents that DDIM, run backwards by the trained model, arrives at; see `DDIMInPO`."""

    beta: float = number(2000.0, above=0)
    inversion_steps: int = number(10, at_least=1)
    grid: Literal["exact", "code"] = "exact"
    inversion_eta: float = number(0.0, at_least=0, at_most=1)

    NEEDS = TWO_IMAGES

    def inversion(self) -> dict[str, Any]:
        """Options of `jaxpo.diffusion.inversion.invert`."""
        return {"n": self.inversion_steps, "grid": self.grid}

    def noisy(self, how: Denoiser, params: Any, batch: ImageBatch, draws: Draws) -> Noisy:
        from jaxpo.objectives.families.image_pairs import inverted

        return inverted(how, params["model"], batch, draws, self.inversion_eta, **self.inversion())


@dataclass(frozen=True)
class DDIMInPO(InversionMethod):
    """DDIM-InPO.

    Attributes:
      beta: strength of the tie to the reference; 5000 for SDXL.
      inversion_steps: segments of the whole schedule, n.
      grid: "exact" ends at the pair's time; "code" is that of the released script, whose latent lies up to T/n - 1
        times beyond it.
      inversion_eta: of the noise added after every segment, 0.1 in the released script; 0 = a deterministic inversion.
    """

    INFO = Info(
        name="inpo_ddim",
        family="pairs of images",
        paper="InPO: Inversion Preference Optimization with Reparametrized DDIM",
        arxiv="2503.18454",
        certainty="loss, grid and noise as in the authors' code; the exact grid is ours",
    )

    def loss(self, features: ComparedImages) -> Array:
        from jaxpo.losses import inpo_ddim

        return inpo_ddim(*features.sides, beta=self.beta, where=features.present)
