"""PPD: Diffusion-DPO of a model that sees who is asking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.images import TWO_IMAGES, ComparedMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.images.batch import ImageBatch
    from jaxpo.objectives.families.denoising import Draws
    from jaxpo.objectives.families.image_pairs import ComparedImages


@dataclass(frozen=True)
class PPD(ComparedMethod):
    """Personalised preferences; the stage trains the branch that reads users alone, unless it is told otherwise.

    Attributes:
      beta: strength of the tie to the reference, which sees no user.
      user_dropout: share of the pairs whose user is left out, for whom the model is the base.
      whole_model: let what reads no user be trained as well (ours); those without a user then get another model than
        the base.
    """

    beta: float = number(2000.0, above=0)
    user_dropout: float = number(0.1, at_least=0, at_most=1)
    whole_model: bool = False

    INFO = Info(
        name="ppd",
        family="pairs of images",
        paper="Personalized Preference Fine-tuning of Diffusion Models",
        arxiv="2501.06655",
        certainty="form of the loss and the branch from notes on the paper; beta, dropout and the 1/2 are ours",
    )
    NEEDS = replace(TWO_IMAGES, columns=("user",))

    def user(self, batch: ImageBatch, draws: Draws, rng: Array | None) -> Array:
        import jax.numpy as jnp

        from jaxpo.objectives.families.denoising import dropped

        tokens: Array = batch.columns["user_tokens"]
        if rng is None or not self.user_dropout:
            return tokens
        return jnp.where(dropped(draws.keys, self.user_dropout)[:, None, None], 0.0, tokens)

    def loss(self, features: ComparedImages) -> Array:
        from jaxpo.losses import ppd

        return ppd(*features.sides, beta=self.beta, where=features.present)
