"""What a model draws of scenes: whether that is what captions say, what a reward says of it, and how far it drifted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.config import Users
from jaxpo.corpora.scenes import REWARDS, TASTES, adherence, draw, pairs, render
from jaxpo.data.images.batch import ImageBatch
from jaxpo.data.images.users import embeddings, pooled
from jaxpo.evaluate.context import ProbeContext
from jaxpo.evaluate.drawn import keep_drawn
from jaxpo.models.family import family, limits
from jaxpo.objectives.families.denoising import Denoiser, denoised
from jaxpo.sampling.images import ImageSampler, caption_arrays, draw_images

Tree = Any
COLOURS = 3
"""Channels of a scene."""


def scored(reward: str, images: np.ndarray) -> np.ndarray:
    """float32 `[B]`: what a reward says of images."""
    return np.asarray(REWARDS[reward](jnp.asarray(images)))


def words_alone(config: Any) -> Iterator[str]:
    """Why a model draws no scene from the words of a caption; nothing of one that draws nothing at all."""
    if family(config).denoise is None:
        return
    if getattr(config, "text_adapter", None) is not None:
        yield (
            "the model reads the states of a second text encoder (text_adapter), which words do not give; leave the "
            "probe out."
        )
    elif not limits(config).vocabulary:
        yield "the model has no text tower (model.caption) that would read captions; leave the probe out."
    if config.in_channels != COLOURS:
        yield f"the model draws {config.in_channels} channels, and a scene has {COLOURS}; leave the probe out."


@dataclass(frozen=True)
class SceneProbe:
    """Samples of held-out captions.

    `scenes/adherence`: share of the clauses that a sample shows. `scenes/REWARD`: its mean. `scenes/wins`: share of the
    samples that the reward likes better than those of the model before the stage, on the same noise.
    `scenes/error`: squared error of what the model predicts of held-out scenes, always at the same times and noise.
    The report shows the first samples of both, one below the other.

    Attributes:
      reward: a name of `jaxpo.corpora.scenes.REWARDS`.
      captions: how many, one sample of each.
      things: fewest and most of a scene, a clause each.
      segments: pieces of a caption that the model reads each alone.
      size: pixels along both sides.
      steps, guidance: of the sampler.
      negative: the stage trained a negative model: it is the model before the stage that draws, and guidance pushes
        away from the stage's.
      seed: of captions and noise.
    """

    reward: str = "brightness"
    captions: int = 64
    things: tuple[int, int] = (1, 1)
    segments: int = 1
    size: int = 8
    steps: int = 25
    guidance: float = 3.0
    negative: bool = False
    seed: int = 7

    def problems(self, config: Any) -> Iterator[str]:
        """What keeps it from measuring a model."""
        yield from words_alone(config)

    def measure(self, context: ProbeContext) -> dict[str, float]:
        """The figures above; those that compare are left out where there is nothing to compare with.

        A model that draws nothing, such as one that judges images, has none.
        """
        if family(context.scorer.config).denoise is None:
            return {}
        scenes = draw(self.captions, self.seed, held_out=True, things=self.things)
        captions = [scene.caption for scene in scenes]

        def drawn(model: Tree, negative: Tree | None) -> np.ndarray:
            sampler = ImageSampler(self.steps, self.guidance)
            config, tokenizer = context.scorer.config, context.tokenizer
            how: dict[str, Any] = {"negative": negative, "seed": self.seed, "segments": self.segments}
            return np.stack([d.pixels for d in draw_images(model, config, tokenizer, captions, sampler, **how)])

        pushed = self.negative and context.before is not None
        images = drawn(context.before, context.params) if pushed else drawn(context.params, None)
        rewards = scored(self.reward, images)
        found = {
            "scenes/adherence": float(adherence(images, scenes).mean()),
            f"scenes/{self.reward}": float(rewards.mean()),
            "scenes/error": self.error(context, captions, render(scenes, self.size)),
        }
        if context.before is not None:
            before = drawn(context.before, None)
            found["scenes/wins"] = float(np.mean(rewards > scored(self.reward, before)))
            keep_drawn(context, "samples", captions, {"before": before, context.stage: images})
        return found

    def error(self, context: ProbeContext, captions: list[str], images: np.ndarray) -> float:
        """The model's own error on scenes, which alignment should hardly raise."""
        config: Any = context.scorer.config
        how = Denoiser.of(context.scorer)
        words = config.caption.max_length
        pixels: Any = images[:, None]
        ids: Any = np.arange(len(captions), dtype=np.int32)
        tokens: Any
        mask: Any
        tokens, mask = caption_arrays(captions, context.tokenizer, self.segments, words)
        batch = ImageBatch(pixels, tokens, mask, {}, ids)
        errors = jax.jit(lambda model: denoised(how, {"model": model}, batch, None, 0.0).errors)(context.params)
        return float(jnp.mean(errors))


@dataclass(frozen=True)
class PeopleProbe:
    """Strangers of four tastes, each known by a few choices.

    `people/TASTE`: share of the samples for a stranger of that taste that their own reward likes better than what the
    model draws for nobody, on the same noise; `people/wins`: the mean over tastes. The report shows the first samples
    for nobody and for each.

    Attributes:
      users: how they become tokens, as in the stage.
      captions: how many, one sample of each for every taste; they do not say where things are.
      steps, guidance: of the sampler.
      seed: of strangers, captions and noise.
    """

    users: Users = field(default_factory=Users)
    captions: int = 32
    steps: int = 25
    guidance: float = 3.0
    seed: int = 7

    def problems(self, config: Any) -> Iterator[str]:
        """What keeps it from measuring a model that reads its users."""
        if getattr(config, "user_channels", 0) == self.users.width:
            yield from words_alone(config)

    def measure(self, context: ProbeContext) -> dict[str, float]:
        """Nothing of a model that reads no users, or another width of their tokens."""
        config: Any = context.scorer.config
        if getattr(config, "user_channels", 0) != self.users.width or context.before is None:
            return {}
        captions = [scene.caption for scene in draw(self.captions, self.seed, unplaced=1.0)]

        def drawn(user: np.ndarray | None) -> np.ndarray:
            sampler = ImageSampler(self.steps, self.guidance)
            how: dict[str, Any] = {"user": user, "seed": self.seed}
            found = draw_images(context.params, config, context.tokenizer, captions, sampler, **how)
            return np.stack([d.pixels for d in found])

        nobody, wins = drawn(np.zeros((self.users.tokens, self.users.width), np.float32)), {}
        rows = {"nobody": nobody}
        for i, (taste, reward) in enumerate(TASTES.items()):
            known = pairs(self.users.support, self.seed + i, reward, size=config.sample_size, unplaced=1.0)
            apart = [
                pooled(a, self.users.cells) - pooled(b, self.users.cells)
                for a, b in zip(known.chosen, known.rejected, strict=True)
            ]
            rows[taste] = drawn(embeddings([np.stack(apart)], self.users)[0])
            wins[f"people/{taste}"] = float(np.mean(scored(reward, rows[taste]) > scored(reward, nobody)))
        keep_drawn(context, "people", captions, rows)
        return {**wins, "people/wins": float(np.mean(list(wins.values())))}
