"""PPD on scenes: people who like opposite things are served by one model that sees four of their choices."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion.base import IMAGE, PERSONAL, SCHEDULE, base, predict, random_times, samples, unit_noise, words
from evidence.claims._scene_images import BATCH, BETA, SAMPLER_STEPS, by_dpo, noise_errors
from evidence.harness import Claim

from jaxpo.corpora.scenes import REWARDS, TASTES, draw, embeddings, pairs, support
from jaxpo.diffusion.parameterisation import add_noise, to_noise
from jaxpo.losses import ppd
from jaxpo.losses.denoising import squared_error
from jaxpo.models.family import param_table
from jaxpo.models.paths import cut, joined, split_table
from jaxpo.models.spec import init_params

PEOPLE, PAIRS, STEPS, BRANCH_RATE, WHOLE_RATE = 8, 32, 120, 1e-3, 3e-5
"""People of each taste, pairs of each, steps, and learning rates of the branch alone and of a whole model."""
UNSEEN, PROMPTS = 4, 8
Tree = Any

CLAIM = Claim(
    method="ppd",
    paper="arXiv:2501.06655",
    claim="People like brightness, darkness, the left or the right. Of those who were not trained on, the user branch, "
    "shown four of their pairs, makes 65 of 100 samples better than the base's, and a tenth more than Diffusion-DPO on "
    "everybody's pairs, which sees no user.",
    baseline="Diffusion-DPO of the whole model on the same pairs",
    measure="share of samples with a larger own reward than the base's of the same noise, mean over 16 unseen people; "
    "effect: the smaller of PPD's less 0.65, and PPD's less the baseline's less 0.1",
    seeds=(0, 1, 2),
    threshold=0.0,
    min_share=0.6,
)


def community(seed: int) -> Tree:
    """Everybody's pairs, whose captions leave the place open, with the vectors of who judged them."""
    judged, people = [], []
    for k, taste in enumerate(TASTES):
        for person in range(PEOPLE):
            name = 100_000 * (seed + 1) + 1000 * k + person
            judged.append(pairs(PAIRS, name, TASTES[taste], unplaced=1.0))
            people.append(support(taste, name + 500))
    return {
        "images": jnp.asarray(np.concatenate([np.stack([x.chosen, x.rejected]) for x in judged], axis=1)),
        "words": words([caption for x in judged for caption in x.captions]),
        "user": jnp.repeat(jnp.asarray(embeddings(people)), PAIRS, axis=0),
    }


def by_ppd(branch: Tree, reference: Tree, batch: Tree, key: jax.Array) -> jax.Array:
    """The reference sees no user; of the model the branch alone has gradients."""
    at, drawn = jax.random.split(key)
    t = jnp.tile(random_times(at, BATCH), 2)
    noise = jnp.tile(jax.random.normal(drawn, (BATCH, *IMAGE)), (2, 1, 1, 1))
    tokens, user = jnp.tile(batch["words"], (2, 1)), jnp.tile(batch["user"], (2, 1, 1))
    x = add_noise(SCHEDULE, batch["images"].reshape(-1, *IMAGE), noise, t)
    output = predict(joined(branch, reference), x, t, tokens, user)
    own = squared_error(to_noise(SCHEDULE, output, x, t), noise)
    fixed = noise_errors(reference, x, t, noise, tokens)
    return ppd(*jnp.split(own, 2), *jnp.split(fixed, 2), beta=BETA).mean()


@partial(jax.jit, static_argnames=("loss", "rate"))
def trained(loss: Any, start: Tree, reference: Tree, data: Tree, key: jax.Array, rate: float) -> Tree:
    """What is trained, after `STEPS`."""
    optimizer = optax.adamw(rate, weight_decay=0.0)

    def step(state: Tree, key: jax.Array) -> tuple[Tree, None]:
        params, moments = state
        rows, inside = jax.random.split(key)
        chosen = jax.random.randint(rows, (BATCH,), 0, len(data["words"]))
        batch = {k: x[:, chosen] if k == "images" else x[chosen] for k, x in data.items()}
        updates, moments = optimizer.update(jax.grad(loss)(params, reference, batch, inside), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, STEPS))[0][0]


def measure(seed: int) -> dict[str, float]:
    data, key = community(seed), jax.random.key(seed)
    table = param_table(PERSONAL)
    branch = cut(split_table(table, ("*_user/*",))[0], init_params(table, key))
    personal = joined(trained(by_ppd, branch, base(), data, key, BRANCH_RATE), base())
    common = trained(by_dpo, base(), base(), data, key, WHOLE_RATE)
    people = [support(t, 900_000 + 1000 * seed + 10 * k + n) for k, t in enumerate(TASTES) for n in range(UNSEEN)]
    user = jnp.repeat(jnp.asarray(embeddings(people)), PROMPTS, axis=0)
    prompts = words([x.caption for x in draw(len(user), 3000 + seed, unplaced=1.0)])
    noise = unit_noise(seed, len(user))
    options = {"guidance": 1.0, "steps": SAMPLER_STEPS}
    before, after = samples(base(), noise, prompts, **options), samples(common, noise, prompts, **options)
    own = samples(personal, noise, prompts, user, **options)
    wins: dict[str, list[float]] = {"ppd": [], "dpo": []}
    for k, taste in enumerate(TASTES):
        mine = slice(k * UNSEEN * PROMPTS, (k + 1) * UNSEEN * PROMPTS)
        rewards = {name: REWARDS[TASTES[taste]](x[mine]) for name, x in (("", before), ("ppd", own), ("dpo", after))}
        for name, found in wins.items():
            found.append(float(jnp.mean((rewards[name] > rewards[""]) + 0.5 * (rewards[name] == rewards[""]))))
    ours, theirs = np.mean(wins["ppd"]), np.mean(wins["dpo"])
    return {
        "method": float(ours),
        "baseline": float(theirs),
        "effect": float(min(ours - 0.65, ours - theirs - 0.1)),
        **{f"win, {taste}": win for taste, win in zip(TASTES, wins["ppd"], strict=True)},
    }
