"""DDIM-InPO against Diffusion-DPO at equal steps, on points of a ring with two rewards."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from evidence.claims._points import REWARDS, course, forward_errors, inverted_errors, network, pairs, pretrained
from evidence.harness import Claim

from jaxpo.losses import diffusion_dpo, inpo_ddim

BETA = 200.0

CLAIM = Claim(
    method="inpo_ddim",
    paper="arXiv:2503.18454",
    claim="After 200 equal steps at one beta, DDIM-InPO's samples have at least the reward of Diffusion-DPO's, in the "
    "mean over a reward of the whole ring and one of a single place.",
    baseline="Diffusion-DPO",
    measure="mean reward of 1024 samples, gain over the base: InPO minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.0,
)


def by_noise(params, base, batch, key):
    return jnp.mean(diffusion_dpo(*forward_errors(params, base, batch, key), beta=BETA))


def by_inversion(params, base, batch, key):
    return jnp.mean(inpo_ddim(*inverted_errors(params, base, batch, key, n=10), beta=BETA))


@functools.cache
def courses(seed):
    """Reward's name -> the courses of InPO and of DPO."""
    start, learn, data, run = jax.random.split(jax.random.key(seed), 4)
    base = pretrained(network(start), learn, steps=1500)
    found = {}
    for name, reward in REWARDS.items():
        ranked = pairs(data, 512, reward)
        found[name] = [course(base, ranked, run, loss=loss, reward=reward) for loss in (by_inversion, by_noise)]
    return found


def measure(seed: int) -> dict[str, float]:
    found = courses(seed)
    ours, theirs = (sum(float(c[i][0][-1] - c[i][0][0]) for c in found.values()) / len(found) for i in (0, 1))
    drifts = {
        f"drift {method}, {name}": float(c[i][1][-1])
        for name, c in found.items()
        for i, method in enumerate(("InPO", "DPO"))
    }
    return {"method": ours, "baseline": theirs, "effect": ours - theirs, **drifts}
