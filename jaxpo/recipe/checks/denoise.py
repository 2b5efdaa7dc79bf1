"""The checks of stages that train models which denoise images. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jaxpo.config import Data, Denoise, Run
from jaxpo.config.fields import flag
from jaxpo.config.noise import LINEAR, NoiseSchedule
from jaxpo.models.family import family, is_config, limits
from jaxpo.recipe.lineage import declared_model

UNUSED = (
    *("mix", "curriculum", "fim", "texts", "block_rows", "media_rows", "media_length", "spread_groups"),
    *("balance_groups", "packing", "train_on", "rendered", "special_tokens", "reasoning", "on_empty"),
)
"""Settings of `data` that say something of rows of tokens."""
WANTED = {
    "denoise": "a Denoise stage trains a model that denoises images, such as a DiTConfig.",
    "towers": "this loss trains one that fits pictures to captions, such as a DenscoreConfig.",
}
"""What of a family a loss trains -> what is said where it is not there."""


PICTURE = 3
"""Channels of a picture."""
LACKS = {
    "denoise": "denoises no images",
    "towers": "does not say how well pictures and captions fit; name the model of a stage with the loss denscore",
    "decode": "decodes no latents; name the folder vae/ of a pipeline of diffusers",
}
"""Likewise of a network beside it."""


def denoise_problems(run: Run, index: int, stage: Denoise) -> Iterator[str]:
    """A model that denoises, settings of images in range, and none of texts that would have no effect."""
    name, images, data = stage.name, stage.images, stage.data
    config, wanted = declared_model(run, stage), getattr(stage.loss, "MODEL", "denoise")
    if is_config(config) and getattr(family(config), wanted) is None:
        yield f"{name}.model: of the family {family(config).name!r}; {WANTED[wanted]}"
    noise = getattr(config, "schedule", None)
    if getattr(stage.loss, "SAMPLES", False) and noise is not None and (noise.zero_snr or noise.betas == "flow"):
        yield (
            f"{name}.loss: {stage.loss.INFO.name} samples from the last time, at which the model's schedule leaves "
            "nothing of the image to go on from; train it on a model whose schedule has neither zero_snr nor betas "
            "'flow'."
        )
    if is_config(config) and (problem := adapter_problem(stage, config)):
        yield problem
    yield from _step_problems(stage, noise)
    yield from _tie_problems(stage)
    if stage.max_tokens is not None:
        yield f"{name}.max_tokens: images have none; give {flag((name, 'max_steps'))}, or num_train_epochs."
    if stage.qat is not None:
        yield f"{name}.qat: no runtime reads a denoiser on a grid of few bits; leave it out."
    for field in UNUSED:
        if getattr(data, field) not in (getattr(Data(), field), None):
            yield f"{name}.data.{field}: is of rows of tokens, and a Denoise stage reads images; leave it out."
    if data.truncation == "prompt_left":
        yield f"{name}.data.truncation: 'prompt_left' cuts prompts of answers; 'response_right' cuts a caption's end."
    at_least = {"segments": 1, "users.support": 1, "users.tokens": 1, "users.width": 1, "users.cells": 1}
    for path, least in at_least.items():
        value = images
        for part in path.split("."):
            value = getattr(value, part)
        if not isinstance(value, int) or value < least:
            yield f"{name}.images.{path}: {value} must be at least {least}."
    if images.size is not None and images.size < 1:
        yield f"{name}.images.size: {images.size} must be at least 1."
    if not images.latent_scale > 0:
        yield f"{name}.images.latent_scale: {images.latent_scale:g} must be above 0."
    yield from _user_problems(run, stage)


def _tie_problems(stage: Denoise) -> Iterator[str]:
    """Pairs that nobody prefers teach only losses that read rewards."""
    needs = getattr(stage.loss, "NEEDS", None)
    if stage.images.ties == "keep" and needs is not None and "chosen" in needs.roles and "rewards" not in needs.columns:
        yield (
            f"{stage.name}.images.ties: 'keep', and {stage.loss.INFO.name} reads no rewards: a pair that nobody "
            "prefers would be trained on as if its first image were the better one; give 'skip', or a loss that reads "
            "rewards."
        )


def _step_problems(stage: Denoise, noise: Any) -> Iterator[str]:
    """A sampler has no more times than the schedule, and the released scripts' inversion a stride that divides them."""
    if noise is None:
        return
    where = f"{stage.name}.loss"
    for field in ("sampler_steps", "inversion_steps"):
        steps = getattr(stage.loss, field, 0)
        if steps > noise.steps:
            yield f"{where}.{field}: {steps}, and the model's schedule has {noise.steps} times; give that at most."
    steps = getattr(stage.loss, "inversion_steps", 0)
    if steps and getattr(stage.loss, "grid", None) == "code" and noise.steps % steps:
        yield (
            f"{where}.inversion_steps: {steps} does not divide the {noise.steps} times of the model's schedule, as "
            "grid 'code' needs; give a divisor, or grid 'exact'."
        )


def beside_image_problems(mine: Any, theirs: Any, part: str, *, decoded: bool = False) -> Iterator[str]:
    """What keeps a network from standing beside a model of images.

    Args:
      mine, theirs: configurations, of the trained model and of the network.
      part: what of its family the network must have.
      decoded: whether what the trained model draws is decoded before another network sees it.
    """
    if getattr(family(theirs), part) is None:
        yield f"of the family {family(theirs).name!r}, which {LACKS[part]}."
        return
    if part == "decode":
        if theirs.latent_channels != mine.in_channels:
            yield f"its latents have {theirs.latent_channels} channels, and the trained model's {mine.in_channels}."
        return
    if part == "towers":
        seen, whose = (PICTURE, "what is decoded") if decoded else (mine.in_channels, "what the trained model draws")
        if theirs.in_channels != seen:
            yield f"its in_channels is {theirs.in_channels}, and {whose} has {seen}."
        return
    fields = {name: tuple(getattr(x, name, None) for x in (theirs, mine)) for name in ("sample_size", "in_channels")}
    if family(mine).denoise is not None:
        fields["schedule"] = tuple(_noise_alone(x.schedule) for x in (theirs, mine))
        words = tuple(limits(x).context for x in (theirs, mine))
        if all(words):
            fields["caption.max_length"] = words
    for name, (its, own) in fields.items():
        if its != own:
            yield f"its {name} is {its}, and that of the trained model is {own}; both see the same images."


def _noise_alone(noise: NoiseSchedule) -> NoiseSchedule:
    """Whatever is predicted of it, and with the betas that it leaves to the default."""
    start, end = LINEAR.get(noise.betas, (None, None))
    return replace(noise, parameterisation="x0", beta_start=noise.beta_start or start, beta_end=noise.beta_end or end)


def users_problem(stage: Denoise, config: Any) -> str | None:
    """Users whom the model cannot read: its attention to them is of another width, or there is none."""
    needs, width, own = (
        getattr(stage.loss, "NEEDS", None),
        stage.images.users.width,
        getattr(config, "user_channels", 0),
    )
    if needs is None or "user" not in needs.columns or own == width:
        return None
    more = "" if own else f", or add one: {flag((stage.name, 'add_users'))} True"
    return (
        f"{stage.name}.images.users.width: {width}, and the model's attention to users reads {own or 'none'} "
        f"(user_channels); give both the same{more}."
    )


def adapter_problem(stage: Denoise, config: Any) -> str | None:
    """A text adapter to be added to a model that has one of another shape, or takes none."""
    asked, own = stage.add_text_adapter, getattr(config, "text_adapter", None)
    if asked is None or asked == own:
        return None
    has = "takes none; leave it out" if own is None else f"has another one, {own}; give the same, or leave it out"
    return f"{stage.name}.add_text_adapter: the model {has}."


def _user_problems(run: Run, stage: Denoise) -> Iterator[str]:
    """Users need a branch of the model that reads them, of their width."""
    needs = getattr(stage.loss, "NEEDS", None)
    config = declared_model(run, stage)
    if stage.add_users and (needs is None or "user" not in needs.columns):
        yield f"{stage.name}.add_users: the loss reads no users, so that the branch would not be trained; leave it out."
    if needs is None or "user" not in needs.columns:
        return
    if is_config(config) and (problem := users_problem(stage, config)):
        yield problem
    if getattr(stage.loss, "whole_model", False):
        return
    others = [pattern for pattern in stage.train if "_user" not in pattern]
    if others:
        what = "everything" if stage.train == Denoise.train else repr(others[0])
        yield (
            f"{stage.name}.train: {what} would be trained, and of users only the branch that reads them is; give "
            f"{flag((stage.name, 'train'))} '*/to_k_user/*' '*/to_v_user/*', or train the others as well: "
            f"{flag((stage.name, 'loss', 'whole_model'))} True."
        )
