"""SmPO-Diffusion: how sure a reward model is of a pair scales its logit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import TWO_IMAGES
from jaxpo.objectives.methods.inpo_ddim import InversionMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.image_pairs import ComparedImages


@dataclass(frozen=True)
class SmPODiffusion(InversionMethod):
    """SmPO-Diffusion; rewards are relative to the least and the largest of the training rows.

    Attributes:
      beta: strength of the tie to the reference; 5000 for SDXL.
      inversion_steps: segments of the whole schedule, 9 in the paper, 5 in the authors' code.
      grid: as of InPO.
      inversion_eta: as of InPO; none here.
      gamma: scale of the soft label.
      corrections: ReNoise's per segment.
      correct_at: the time that is fed for them: "dst", where the latent is, or "src", as the authors' code does.
    """

    inversion_steps: int = number(9, at_least=1)
    gamma: float = number(10.0, above=0)
    corrections: int = number(1, at_least=0)
    correct_at: Literal["dst", "src"] = "dst"

    INFO = Info(
        name="smpo_diffusion",
        family="pairs of images",
        paper="Smoothed Preference Optimization via ReNoise Inversion for Aligning Diffusion Models",
        arxiv="2506.02698",
        certainty="weight, inversion and factor as in the authors' code; correction at the destination is ours",
    )
    NEEDS = replace(TWO_IMAGES, columns=("rewards",))

    def inversion(self) -> dict[str, Any]:
        return super().inversion() | {"corrections": self.corrections, "correct_at": self.correct_at}

    def preferred_first(self, features: ComparedImages) -> ComparedImages:
        """The image with the greater reward, whatever the label says."""
        rewards = features.columns["rewards"]
        return features.turned(rewards[:, 1] > rewards[:, 0])

    def loss(self, features: ComparedImages) -> Array:
        from jaxpo.losses import smpo_diffusion

        rewards = features.columns["rewards"]
        options: Any = {"beta": self.beta, "gamma": self.gamma, "where": features.present}
        return smpo_diffusion(*features.sides, rewards[:, 0], rewards[:, 1], **options)
