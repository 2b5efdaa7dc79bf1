"""Preference methods on the trained base of `tests/assets`: pairs of scenes, a short training, gain against drift.

A run starts at the base and keeps the parameters of several moments. At each, the reward of samples from the same noise
tells the gain over the base, and the denoising loss on held-out scenes how far the model has drifted. Two methods are
compared after as many steps, and where their drifts are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion.base import IMAGE, SCHEDULE, base, errors, predict, random_times, samples, unit_noise, words

from jaxpo.corpora.scenes import REWARDS, draw, pairs, render
from jaxpo.diffusion.inversion import invert
from jaxpo.diffusion.parameterisation import add_noise, implied_noise, to_noise
from jaxpo.losses import diffusion_dpo, inpo_ddim, smpo_diffusion, smpo_rewards
from jaxpo.losses.denoising import squared_error

PAIRS, BATCH, MOMENTS, BETWEEN, RATE, BETA = 512, 16, 4, 15, 3e-5, 2000.0
LOOK, SAMPLER_STEPS = 64, 15
WANTED = ("brightness", "left")
"""A reward of the whole picture, and one of a place, whose captions leave it open."""
MOST = 1.1
"""Drift up to which a model counts as undamaged: its denoising loss over the base's."""
INVERSION = 5
Tree = Any
Loss = Callable[[Tree, Tree, Tree, jax.Array], jax.Array]


def data_of(reward: str, seed: int, ties: float = 0.0) -> Tree:
    """Images `[2, PAIRS, ...]`, words, and rewards within [0, 1]."""
    found = pairs(PAIRS, seed, reward, ties=ties, unplaced=float(reward == "left"))
    scaled = smpo_rewards(jnp.asarray(found.rewards.T), float(found.rewards.min()), float(found.rewards.max()))
    return {
        "images": jnp.asarray(np.stack([found.chosen, found.rejected])),
        "words": words(found.captions),
        "rewards": scaled,
    }


def noise_errors(params: Tree, latents: jax.Array, t: jax.Array, noise: jax.Array, tokens: jax.Array) -> jax.Array:
    """Squared errors of the noise that the model's velocity stands for."""
    return squared_error(to_noise(SCHEDULE, predict(params, latents, t, tokens), latents, t), noise)


def four_errors(params: Tree, reference: Tree, latents: jax.Array, t: jax.Array, noise: jax.Array, tokens: jax.Array):
    """Of the chosen and the rejected halves, by the model and by the reference."""
    own, fixed = (noise_errors(p, latents, t, noise, tokens) for p in (params, reference))
    return (*jnp.split(own, 2), *jnp.split(jax.lax.stop_gradient(fixed), 2))


def forward(batch: Tree, key: jax.Array):
    """Latents, times and noise of pairs that share both."""
    at, drawn = jax.random.split(key)
    t = jnp.tile(random_times(at, BATCH), 2)
    noise = jnp.tile(jax.random.normal(drawn, (BATCH, *IMAGE)), (2, 1, 1, 1))
    images = batch["images"].reshape(-1, *IMAGE)
    return add_noise(SCHEDULE, images, noise, t), t, noise, jnp.tile(batch["words"], (2, 1))


def inverted(params: Tree, batch: Tree, key: jax.Array, corrections: int):
    """Latents, times and implied noise by the current model's inversion."""
    t = jnp.tile(random_times(jax.random.split(key)[0], BATCH), 2)
    tokens, images = jnp.tile(batch["words"], (2, 1)), batch["images"].reshape(-1, *IMAGE)
    fixed = jax.lax.stop_gradient(params)
    latents = invert(
        SCHEDULE, lambda x, at: predict(fixed, x, at, tokens), images, t, n=INVERSION, corrections=corrections
    )
    return latents, t, implied_noise(SCHEDULE, latents, images, t), tokens


def by_dpo(params: Tree, reference: Tree, batch: Tree, key: jax.Array) -> jax.Array:
    return diffusion_dpo(*four_errors(params, reference, *forward(batch, key)), beta=BETA).mean()


def by_inpo(params: Tree, reference: Tree, batch: Tree, key: jax.Array) -> jax.Array:
    return inpo_ddim(*four_errors(params, reference, *inverted(params, batch, key, 0)), beta=BETA).mean()


def by_smpo(params: Tree, reference: Tree, batch: Tree, key: jax.Array) -> jax.Array:
    found = four_errors(params, reference, *inverted(params, batch, key, 1))
    return smpo_diffusion(*found, *batch["rewards"], beta=BETA).mean()


@partial(jax.jit, static_argnames="loss")
def trained(loss: Loss, reference: Tree, data: Tree, key: jax.Array) -> Tree:
    """The parameters after every `BETWEEN` steps, stacked."""
    optimizer = optax.adamw(RATE, weight_decay=0.0)

    def step(state: Tree, key: jax.Array) -> tuple[Tree, None]:
        params, moments = state
        rows, inside = jax.random.split(key)
        chosen = jax.random.choice(rows, PAIRS, (BATCH,), replace=False)
        batch = {k: x[chosen] if k == "words" else x[:, chosen] for k, x in data.items()}
        updates, moments = optimizer.update(jax.grad(loss)(params, reference, batch, inside), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    def moment(state: Tree, keys: jax.Array) -> tuple[Tree, Tree]:
        state = jax.lax.scan(step, state, keys)[0]
        return state, state[0]

    keys = jax.random.split(key, (MOMENTS, BETWEEN))
    return jax.lax.scan(moment, (reference, optimizer.init(reference)), keys)[1]


@jax.jit
def held_out_loss(params: Tree, images: jax.Array, tokens: jax.Array) -> jax.Array:
    """The denoising loss at times over the whole range, with noise that is always the same."""
    t = jnp.round(jnp.linspace(0, SCHEDULE.steps - 1, len(images))).astype(jnp.int32)
    return errors(params, images, t, jax.random.normal(jax.random.key(1), images.shape), tokens).mean()


@cache
def course(loss: Loss, reward: str, seed: int, ties: float = 0.0) -> dict[str, np.ndarray]:
    """`gain`, `win` and `drift` at the beginning and at every moment of a run."""
    unseen, prompts = draw(256, 1000 + seed, held_out=True), draw(LOOK, 2000 + seed, unplaced=float(reward == "left"))
    probe = jnp.asarray(render(unseen)), words([x.caption for x in unseen])
    tokens, noise = words([x.caption for x in prompts]), unit_noise(seed, LOOK)
    moments = trained(loss, base(), data_of(reward, seed, ties), jax.random.key(seed))
    models = [base(), *(jax.tree.map(lambda x, k=k: x[k], moments) for k in range(MOMENTS))]
    rewards = [
        np.asarray(REWARDS[reward](samples(p, noise, tokens, guidance=1.0, steps=SAMPLER_STEPS))) for p in models
    ]
    losses = np.asarray([float(held_out_loss(p, *probe)) for p in models])
    return {
        "gain": np.asarray([np.mean(x - rewards[0]) for x in rewards]),
        "win": np.asarray([np.mean((x > rewards[0]) + 0.5 * (x == rewards[0])) for x in rewards]),
        "drift": losses / losses[0],
    }


def gain_at(found: dict[str, np.ndarray], drift: float) -> float:
    """The gain where a run first had that drift, on straight lines between its moments."""
    return float(np.interp(drift, np.maximum.accumulate(found["drift"]), found["gain"]))


def compared(method: Loss, baseline: Loss, seed: int, ties: float = 0.0) -> dict[str, float]:
    """Gains of two methods, over the baseline's: means over two rewards, after as many steps and at the same drift."""
    gains: dict[str, list[tuple[float, float]]] = {"steps": [], "drift": []}
    for reward in WANTED:
        new, old = (course(loss, reward, seed, ties) for loss in (method, baseline))
        level = min(new["drift"].max(), old["drift"].max(), MOST)
        gains["steps"].append((float(new["gain"][-1]), float(old["gain"][-1])))
        gains["drift"].append((gain_at(new, level), gain_at(old, level)))
    more = {name: [a / b - 1 for a, b in both] for name, both in gains.items()}
    ours, theirs = (float(np.mean(x)) for x in zip(*gains["drift"], strict=True))
    return {
        "method": ours,
        "baseline": theirs,
        "effect": float(min(map(np.mean, more.values()))),
        **{f"{reward}, equal {name}": x for name in more for reward, x in zip(WANTED, more[name], strict=True)},
    }
