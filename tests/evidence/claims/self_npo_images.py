"""Self-NPO on scenes: an undertrained model of pictures, guided away from what it learnt of its own estimates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion.base import CONFIG, SCHEDULE, predict, unit_noise, words
from diffusion.train_base import RATE as BASE_RATE
from diffusion.train_base import UNPLACED, WARMUP, loss
from evidence.claims._scene_images import MOST, SAMPLER_STEPS, WANTED, held_out_loss
from evidence.harness import Claim, NotReproduced

from jaxpo.corpora.scenes import REWARDS, adherence, draw, exact, render
from jaxpo.corpora.scenes.scene import Scene
from jaxpo.diffusion.ddim import sample
from jaxpo.diffusion.guidance import two_networks
from jaxpo.diffusion.parameterisation import add_noise, to_x0
from jaxpo.diffusion.rollout import grid, later, renoise, truncated
from jaxpo.diffusion.schedules import destinations, times
from jaxpo.losses import self_npo
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params

PICTURES, BASE_STEPS = 8192, 500
MOMENTS, BETWEEN, BATCH, RATE, TEACHER = 4, 50, 32, 1e-4, 0.999
TRUNCATED, GRID, SCALE = 3, 25, 3.0
LOOK, REAL = 128, 16
"""Captions, a sample of each, and real pictures of each."""
Tree = Any

CLAIM = Claim(
    method="self_npo",
    paper="arXiv:2505.11777",
    claim="Guided at 3 away from its Self-NPO negative (200 steps, three steps of truncated sampling), the samples of "
    "a model of scenes after 500 steps have rewards that are distributed more like those of real pictures than under "
    "classifier-free guidance at 3, after all steps and at the last moment at which the negative's denoising loss is "
    "at most 1.1 times the base's.",
    baseline="classifier-free guidance at the same scale",
    measure="Wasserstein distance of the rewards of samples to those of real pictures of the same captions, mean over "
    "brightness and left, within that drift; effect: 1 - method's / baseline's, mean over the two, the smaller of all "
    "steps and within that drift",
    seeds=(0, 1, 2),
    threshold=0.05,
    min_share=0.6,
    not_reproduced=NotReproduced(
        "The other way on every seed: brightness lies 0.16 to 0.17 from that of real pictures instead of 0.11 to 0.12, "
        "and the place 3 to 5% further, as if the scale were larger; of the clauses 83 to 87% are shown instead of 80 "
        "to 84%. The negative's denoising loss ends at 1.04 to 1.05 of the base's: equal drift is all steps.",
        (-0.4, -0.1),
    ),
)


def pictures(seed: int) -> Tree:
    """Real ones with words, to learn from."""
    scenes = draw(PICTURES, seed, unplaced=UNPLACED)
    return jnp.asarray(render(scenes)), words([x.caption for x in scenes])


@cache
def undertrained() -> Tree:
    """The base of `tests/assets` as it begins, stopped early; one for all seeds."""
    data = pictures(50)
    rate = optax.warmup_cosine_decay_schedule(0.0, BASE_RATE, WARMUP, BASE_STEPS, 0.02 * BASE_RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=1e-4))

    @jax.jit
    def run(key: jax.Array) -> Tree:
        def step(state: Tree, key: jax.Array) -> tuple[Tree, None]:
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params, *data, key), moments, params)
            return (optax.apply_updates(params, updates), moments), None

        params = init_params(param_table(CONFIG), key)
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, BASE_STEPS))[0][0]

    return run(jax.random.key(50))


@jax.jit
def negatives(base: Tree, data: Tree, key: jax.Array) -> Tree:
    """The negative model after every `BETWEEN` steps, stacked; its teacher is the average of its weights."""
    places, optimizer = jnp.asarray(grid(SCHEDULE, GRID)), optax.adamw(RATE, weight_decay=0.0)

    def own(params: Tree, teacher: Tree, key: jax.Array) -> jax.Array:
        rows, place, first, second, anew = jax.random.split(key, 5)
        chosen = jax.random.randint(rows, (BATCH,), 0, PICTURES)
        images, tokens = (x[chosen] for x in data)
        start = jax.random.randint(place, (BATCH,), 1, GRID + 1)
        x = add_noise(SCHEDULE, images, jax.random.normal(first, images.shape), places[start])
        taught = lambda x, t: predict(teacher, x, t, tokens)  # noqa: E731
        found = truncated(SCHEDULE, taught, x, start, steps=TRUNCATED, n=GRID)
        s = later(second, found.t, SCHEDULE.steps)
        x_s = renoise(SCHEDULE, found.x, found.t, s, jax.random.normal(anew, images.shape))
        return self_npo(to_x0(SCHEDULE, predict(params, x_s, s, tokens), x_s, s), found.x0).mean()

    def step(state: Tree, key: jax.Array) -> tuple[Tree, None]:
        params, teacher, moments = state
        updates, moments = optimizer.update(jax.grad(own)(params, teacher, key), moments, params)
        params = optax.apply_updates(params, updates)
        teacher = jax.tree.map(lambda x, y: TEACHER * x + (1 - TEACHER) * y, teacher, params)
        return (params, teacher, moments), None

    def moment(state: Tree, keys: jax.Array) -> tuple[Tree, Tree]:
        state = jax.lax.scan(step, state, keys)[0]
        return state, state[0]

    return jax.lax.scan(moment, (base, base, optimizer.init(base)), jax.random.split(key, (MOMENTS, BETWEEN)))[1]


@partial(jax.jit, static_argnames="scale")
def drawn(positive: Tree, negative: Tree, noise: jax.Array, tokens: jax.Array, scale: float = SCALE) -> jax.Array:
    """Samples guided away from what a network says without the caption; equal networks are ordinary guidance."""
    sides = (
        lambda x, t: predict(positive, x, t, tokens),
        lambda x, t: predict(negative, x, t, jnp.zeros_like(tokens)),
    )
    src = times("trailing", SAMPLER_STEPS)
    return jnp.clip(sample(SCHEDULE, two_networks(*sides, scale), noise, src, destinations(src)), -1, 1)


def again(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another picture of the same caption."""
    things = tuple(replace(x, shift=tuple(int(k) for k in rng.integers(0, 2, 2))) for x in scene.things)
    return replace(scene, things=things, gain=float(rng.uniform(0.6, 1.0)))


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein-1 of two sets of numbers, by their quantiles."""
    at = (np.arange(LOOK) + 0.5) / LOOK
    return float(np.mean(np.abs(np.quantile(x, at) - np.quantile(y, at))))


def measure(seed: int) -> dict[str, float]:
    base = undertrained()
    moments = negatives(base, pictures(100 + seed), jax.random.key(seed))
    models = [base, *(jax.tree.map(lambda x, k=k: x[k], moments) for k in range(MOMENTS))]
    unseen, rng = draw(LOOK, 1000 + seed, held_out=True), np.random.default_rng(seed)
    tokens, noise = words([x.caption for x in unseen]), unit_noise(seed, LOOK)
    losses = [float(held_out_loss(p, jnp.asarray(render(unseen)), tokens)) for p in models]
    drift = np.asarray(losses) / losses[0]
    places = {"cfg": 0, "steps": MOMENTS, "drift": int(np.flatnonzero(drift <= MOST)[-1])}
    images = {name: np.asarray(drawn(base, models[k], noise, tokens)) for name, k in places.items()}
    real = render([again(x, rng) for x in unseen for _ in range(REAL)])
    apart = {
        name: [distance(*(np.asarray(REWARDS[r](jnp.asarray(x))) for x in (own, real))) for r in WANTED]
        for name, own in images.items()
    }
    less = {name: float(np.mean(1 - np.divide(apart[name], apart["cfg"]))) for name in ("steps", "drift")}
    return {
        "method": float(np.mean(apart["drift"])),
        "baseline": float(np.mean(apart["cfg"])),
        "effect": min(less.values()),
        **{f"{r}, {name}": x for name, own in apart.items() for r, x in zip(WANTED, own, strict=True)},
        **{f"adherence, {name}": float(adherence(own, unseen).mean()) for name, own in images.items()},
        **{f"exact, {name}": float(exact(own, unseen).mean()) for name, own in images.items()},
        "drift": float(drift[-1]),
        "steps within the drift": float(BETWEEN * places["drift"]),
    }
