"""How objectives run a model that denoises: captions through its tower, noise drawn by example, errors per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.images.batch import ImageBatch
from jaxpo.diffusion.parameterisation import add_noise, target, to_noise, to_x0
from jaxpo.diffusion.schedules import Schedule, schedule
from jaxpo.losses.denoising import squared_error
from jaxpo.models.family import adapted_states, caption_states, denoiser
from jaxpo.objectives.base import Counts, Mean, masked_mean
from jaxpo.objectives.encode import Scorer

Tree = Any
IMAGES = "images"
"""The count of examples, each by its weight."""
TIME, NOISE, DROP, FURTHER = range(4)
EVALUATION = 0


@struct.dataclass
class Text:
    """What a denoiser sees of captions.

    Attributes:
      states: `[B, L, c]`.
      mask: `[B, L]` True at states that are seen; None = all.
    """

    states: Float[Array, "B L c"]
    mask: Any = None

    def repeated(self, times: int) -> Text:
        """Every example's text `times` times in a row."""
        return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), self)


@struct.dataclass
class Draws:
    """What is drawn for each example, by the step and the example's number, whatever else is in the batch.

    Attributes:
      times: t ~ U{0 .. T - 1}.
      noise: unit noise in the shape of one image; the images of a pair share it, as they share the time.
      keys: for what a method draws besides.
    """

    times: Int[Array, "N"]
    noise: Float[Array, "N H W C"]
    keys: Array


@dataclass(frozen=True)
class Denoiser:
    """A model that denoises, as objectives run it.

    Attributes:
      remat: keep only the input of each layer for the backward pass.
      beside: name -> configuration of a network beside it that has another one.
    """

    config: Any
    dtype: Any
    remat: bool
    beside: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: Scorer, scorers: Mapping[str, Scorer] | None = None) -> Denoiser:
        """As a stage's networks are run."""
        beside = {name: other.config for name, other in (scorers or {}).items()}
        return cls(scorer.config, jnp.dtype(scorer.dtype), scorer.remat != "none", beside)

    def of_beside(self, name: str) -> Denoiser:
        """A network beside the trained one, by its own configuration; its noise and its images are the same.

        `jaxpo.recipe.checks.denoise.beside_image_problems` refuses others before a run.
        """
        return replace(self, config=self.beside.get(name, self.config))

    def as_target(self, other: Denoiser, output: Array, x: Array, t: Array) -> Array:
        """What another denoiser predicts of `x`, in this one's parameterisation."""
        if other.schedule.parameterisation == self.schedule.parameterisation:
            return output
        x0, noise = (f(other.schedule, output, x, t) for f in (to_x0, to_noise))
        return target(self.schedule, x0, noise, t)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise that the model is made for."""
        return schedule(self.config.schedule)

    def text(self, model: Tree, batch: ImageBatch, drop: Bool[Array, "N"] | None = None) -> Text:
        """The states of a batch's captions: of the tower, each segment read alone, or those of the data.

        Args:
          drop: examples that see the empty caption instead; where the data have states, that is what they have of it,
            or else one state of zeros.
        """
        if batch.states is not None:
            return self._with_adapted(model, _stated(batch, drop), batch, drop)
        tokens, mask = batch.tokens, batch.text_mask
        if drop is not None:
            here, first = drop[:, None, None], jnp.zeros(mask.shape, bool).at[:, 0, 0].set(True)
            tokens, mask = jnp.where(here, 0, tokens), jnp.where(here, first, mask)
        n, parts, length = tokens.shape
        found = caption_states(model, tokens.reshape(n * parts, length), self.config, self.dtype)
        joined = found.reshape(n, parts * length, -1)
        # One segment is read with what fills it up, as the tower itself reads it; of several only the tokens are.
        own = Text(joined) if parts == 1 else Text(joined, mask.reshape(n, parts * length))
        return self._with_adapted(model, own, batch, drop)

    def _with_adapted(self, model: Tree, text: Text, batch: ImageBatch, drop: Bool[Array, "N"] | None) -> Text:
        """With what the adapter makes of a second encoder's states behind; of an empty caption there are none."""
        if getattr(self.config, "text_adapter", None) is None:
            return text
        more = adapted_states(model, batch.adapter_states, self.config, self.dtype)
        there = batch.adapter_mask if drop is None else batch.adapter_mask & ~drop[:, None]
        own = jnp.ones(text.states.shape[:2], bool) if text.mask is None else text.mask
        states = jnp.concatenate([text.states.astype(more.dtype), more], axis=1)
        return Text(states, jnp.concatenate([own, there], axis=1))

    def empty(self, model: Tree, batch: ImageBatch) -> Text:
        """The empty caption for every example."""
        return self.text(model, batch, jnp.ones(batch.rows, bool))

    def predict(self, model: Tree, x: Array, t: Array, text: Text, user: Array | None = None) -> Array:
        """What the model predicts of `x [B, H, W, C]` at times `t [B]`, in the schedule's parameterisation."""
        run = denoiser(self.config)
        how = {"config": self.config, "dtype": self.dtype, "remat": self.remat}
        return run(model, x, t, text.states, mask=text.mask, user=user, **how)

    def draw(self, batch: ImageBatch, rng: jax.Array | None) -> Draws:
        """The times and noises of a step; in evaluation (rng None) the same ones every time."""
        key = jax.random.key(EVALUATION) if rng is None else rng
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.maximum(batch.example_id, 0))

        def own(key: Array) -> tuple[Array, Array]:
            time = jax.random.randint(jax.random.fold_in(key, TIME), (), 0, self.schedule.steps)
            return time, jax.random.normal(jax.random.fold_in(key, NOISE), batch.images.shape[2:])

        return Draws(*jax.vmap(own)(keys), keys)


def _stated(batch: ImageBatch, drop: Bool[Array, "N"] | None) -> Text:
    """The states of a batch's captions; of the empty one what the batch has, or one state of zeros."""
    states, mask = batch.states, batch.states_mask
    if drop is None:
        return Text(states, mask)
    empty = jnp.zeros_like(states) if batch.empty_states is None else batch.empty_states
    seen = jnp.zeros(mask.shape, bool).at[:, 0].set(True) if batch.empty_mask is None else batch.empty_mask
    return Text(jnp.where(drop[:, None, None], empty, states), jnp.where(drop[:, None], seen, mask))


def dropped(keys: Array, rate: float) -> Bool[Array, "N"]:
    """Examples whose caption is left out, each with this probability."""
    return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, DROP), rate))(keys)


@struct.dataclass
class Denoised:
    """Single images.

    Attributes:
      errors: mean over dimensions of the squared error of what was predicted.
      alpha_bars: of each example's time.
      weight: of each example.
      parameterisation: static; what was predicted.
      shuffled: the error with another example's caption; in evaluation alone, else None.
    """

    errors: Float[Array, "N"]
    alpha_bars: Float[Array, "N"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]
    parameterisation: Any = struct.field(pytree_node=False)
    shuffled: Any = None


def weight_of(batch: ImageBatch) -> Float[Array, "N"]:
    """What each example counts; 0 where there is none."""
    own = batch.columns.get("weight", jnp.ones(batch.rows, jnp.float32))
    return jnp.where(batch.present, own, 0.0)


def image_counts(batch: ImageBatch) -> dict[str, Array]:
    """`images`: the sum of the examples' weights."""
    return {IMAGES: jnp.sum(weight_of(batch))}


def reduced(features: Any, terms: Array, counts: Counts) -> Float[Array, ""]:
    """The weighted mean of the examples' terms; 0 for an empty step.

    Args:
      features: with `weight` of every example.
    """
    total = counts[IMAGES]
    return jnp.sum(features.weight * terms) / jnp.where(total > 0, total, 1.0)


def flat(x: Array) -> Array:
    """`[N, K, ...] -> [N K, ...]`."""
    return x.reshape(-1, *x.shape[2:])


def another_example(present: Bool[Array, "N"]) -> Int[Array, "N"]:
    """For every example the place of the one before it, for the first that of the last; places without one are none."""
    count, rank = jnp.sum(present), jnp.cumsum(present) - 1
    places = jnp.argsort(~present, stable=True)
    return places[(rank - 1) % jnp.maximum(count, 1)]


def denoised(how: Denoiser, params: Tree, batch: ImageBatch, rng: jax.Array | None, drop_rate: float) -> Denoised:
    """The errors of single images; captions are left out in training alone."""
    draws, x0 = how.draw(batch, rng), batch.images[:, 0]
    drop = None if rng is None or not drop_rate else dropped(draws.keys, drop_rate)
    text = how.text(params["model"], batch, drop)
    x, wanted = (
        add_noise(how.schedule, x0, draws.noise, draws.times),
        target(how.schedule, x0, draws.noise, draws.times),
    )

    def errors(text: Text) -> Array:
        return squared_error(how.predict(params["model"], x, draws.times, text), wanted, where=batch.present)

    another = another_example(batch.present)
    shuffled = errors(jax.tree.map(lambda s: jnp.take(s, another, axis=0), text)) if rng is None else None
    bars = jnp.asarray(how.schedule.alpha_bars)[draws.times]
    kind = how.schedule.parameterisation
    return Denoised(errors(text), bars, batch.present, weight_of(batch), kind, shuffled)


def denoised_metrics(features: Denoised) -> dict[str, Any]:
    """`denoising_error`, and in evaluation `shuffled_error`, that with the caption of another example."""
    found = {"denoising_error": masked_mean(features.errors, features.present)}
    if features.shuffled is not None:
        found["shuffled_error"] = masked_mean(features.shuffled, features.present)
    return found


@struct.dataclass
class Labelled:
    """Single images that are good or bad, with the errors of the trained model and of the reference.

    Attributes:
      label: True for a good image.
    """

    errors: Float[Array, "N"]
    ref_errors: Float[Array, "N"]
    label: Bool[Array, "N"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]


def labelled(
    how: Denoiser, params: Tree, frozen: Mapping[str, Tree], batch: ImageBatch, rng: jax.Array | None
) -> Labelled:
    """The errors of either model at one time and one noise per image."""
    draws, x0 = how.draw(batch, rng), batch.images[:, 0]
    x, wanted = (f(how.schedule, x0, draws.noise, draws.times) for f in (add_noise, target))

    def errors(run: Denoiser, model: Tree) -> Array:
        output = run.predict(model, x, draws.times, run.text(model, batch))
        return squared_error(how.as_target(run, output, x, draws.times), wanted, where=batch.present)

    reference = jax.lax.stop_gradient(errors(how.of_beside("reference"), frozen["reference"]))
    label = batch.columns["label"] > 0.5
    return Labelled(errors(how, params["model"]), reference, label, batch.present, weight_of(batch))


def labelled_metrics(features: Labelled, scale: float) -> dict[str, Mean]:
    """The reward `scale (r - e)` of good and of bad images, its mean over all, and the errors of both models."""
    rewards = scale * (features.ref_errors - features.errors)
    return {
        "rewards/chosen": masked_mean(rewards, features.present & features.label),
        "rewards/rejected": masked_mean(rewards, features.present & ~features.label),
        "kl": masked_mean(rewards, features.present),
        "errors/image": masked_mean(features.errors, features.present),
        "errors/ref_image": masked_mean(features.ref_errors, features.present),
    }
