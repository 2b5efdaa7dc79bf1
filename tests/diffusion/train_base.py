"""Pre-training of the small text-to-image model on scenes: what `scripts/diffusion_base` runs.

The velocity's squared error, unweighted: it counts an error of the image alike at all times, and where there is much
noise a caption says more than the pixels. Weighted by min-SNR, or as the error of the noise, these times count for
little.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion.base import CONFIG, IMAGE, errors, followed, informed, random_times, words
from safetensors.numpy import save_file

from jaxpo.corpora.scenes import draw, render
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params, leaves

BATCH, COUNT, AVERAGE, EMPTY, UNPLACED = 64, 30_000, 0.998, 0.1, 0.2
RATE, WARMUP = 2e-3, 200
AT_ONCE = 50
"""Steps of one call."""
Tree = Any


def loss(params: Tree, images: jax.Array, tokens: jax.Array, key: jax.Array) -> jax.Array:
    """Mean error of a batch drawn from the data, captions left out where chance says so."""
    rows, at, noise, empty = jax.random.split(key, 4)
    chosen = jax.random.randint(rows, (BATCH,), 0, len(images))
    kept = jax.random.bernoulli(empty, 1 - EMPTY, (BATCH, 1))
    t, e = random_times(at, BATCH), jax.random.normal(noise, (BATCH, *IMAGE))
    return errors(params, images[chosen], t, e, jnp.where(kept, tokens[chosen], 0)).mean()


def train(steps: int, seed: int = 0, every: int = 500) -> Tree:
    """The averaged parameters after so many steps; prints the progress on held-out captions."""
    scenes, unseen = draw(COUNT, seed, unplaced=UNPLACED), draw(256, seed + 1, held_out=True)
    data = jnp.asarray(render(scenes)), words([x.caption for x in scenes])
    probe = jnp.asarray(render(unseen)), words([x.caption for x in unseen])
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, min(WARMUP, steps), steps + 1, 0.02 * RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=1e-4))

    @partial(jax.jit, donate_argnums=0)
    def learn(state: Tree, keys: jax.Array) -> tuple[Tree, jax.Array]:
        def step(state: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
            params, moments, mean = state
            value, gradient = jax.value_and_grad(loss)(params, *data, key)
            updates, moments = optimizer.update(gradient, moments, params)
            params = optax.apply_updates(params, updates)
            mean = jax.tree.map(lambda x, y: AVERAGE * x + (1 - AVERAGE) * y, mean, params)
            return (params, moments, mean), value

        return jax.lax.scan(step, state, keys)

    params = init_params(param_table(CONFIG), jax.random.key(seed))
    state, start = (params, optimizer.init(params), jax.tree.map(jnp.copy, params)), time.process_time()
    for done in range(0, steps, AT_ONCE):
        key = jax.random.fold_in(jax.random.key(seed + 1), done)
        state, values = learn(state, jax.random.split(key, min(AT_ONCE, steps - done)))
        if (done + AT_ONCE) % every == 0 or done + AT_ONCE >= steps:
            own, other = informed(state[2], *probe)
            shares = "clauses {:.3f}, alone {:.3f}".format(*followed(state[2], unseen))
            print(
                f"step {done + AT_ONCE}: loss {values.mean():.4f}; held out, t 800: own caption {own:.4f}, another's "
                f"{other:.4f}; shown: {shares}; {time.process_time() - start:.0f} s of processors",
                flush=True,
            )
    return state[2]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/diffusion_base", description=__doc__.split("\n")[0])
    parser.add_argument("out", help="file of the weights; with --folder, folder of a model")
    parser.add_argument("--folder", action="store_true", help="train nothing: the asset as a model that stages read")
    parser.add_argument("--users", type=int, default=0, help="of --folder: width of the vectors of users")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.folder:
        from diffusion.base_folder import write

        write(Path(options.out), options.users)
        return 0
    params = train(options.steps, options.seed)
    named = zip((name for name, _ in leaves(param_table(CONFIG))), jax.tree.leaves(params), strict=True)
    save_file({name: np.asarray(value, np.float16) for name, value in named}, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
