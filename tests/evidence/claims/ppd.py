"""PPD: users who want opposite things of one model, told apart by four of their choices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._points import KINDS, Pairs, descend, draws, forward_errors, network, points, pretrained
from evidence.harness import Claim

from jaxpo.config.image_data import Users
from jaxpo.data.images.users import embeddings
from jaxpo.losses import ppd

USERS, UNSEEN, SUPPORT, WIDTH, BETA = 32, 16, 4, 8, 200.0
WANTS = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
"""Four types of users: right, left, up, down."""

CLAIM = Claim(
    method="ppd",
    paper="arXiv:2501.06655",
    claim="For unseen users of four types, two by two opposed, of whom four pairs are known, samples of PPD's model "
    "beat the base's under the user's own reward in more than 65% of draws; without the user they do not.",
    baseline="the same branch trained on the same pairs with one embedding for all users",
    measure="win rate over the base on the same noise, PPD minus the baseline; -1 where PPD's is 0.65 or less",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.15,
)


def _ranked(key, wants):
    """One pair of points per row of `wants` `[N, 2]`, the one further in that direction chosen."""
    x = points(key, 2 * len(wants))[0].reshape(-1, 2, 2)
    first = jnp.einsum("npd,nd->np", x, wants)
    first = first[:, 0] >= first[:, 1]
    chosen, rejected = (jnp.where((first == side)[:, None], x[:, 0], x[:, 1]) for side in (True, False))
    zero = jnp.zeros(len(wants))
    return Pairs(chosen, rejected, jnp.zeros((len(wants), KINDS)), zero, zero)


def _people(key, n, seed):
    """n users: what they want `[n, 2]`, and their embeddings `[n, WIDTH]`, one token each."""
    wants = WANTS[jnp.arange(n) % 4]
    support = _ranked(key, jnp.repeat(wants, SUPPORT, axis=0))
    apart = np.asarray(support.chosen - support.rejected).reshape(n, SUPPORT, 2)
    known = embeddings(list(apart), Users(support=SUPPORT, tokens=1, width=WIDTH, seed=seed))
    return wants, jnp.asarray(known[:, 0])


def _branch(params, users):
    """The parameters with other user matrices."""
    layers = [{**layer, "user": u} for layer, u in zip(params["layers"], users, strict=True)]
    return {**params, "layers": layers}


@jax.jit
def _trained(base, wants, known, key):
    def loss(users, key):
        who, data, noise = jax.random.split(key, 3)
        who = jax.random.randint(who, (64,), 0, USERS)
        errors = forward_errors(_branch(base, users), base, _ranked(data, wants[who]), noise, known[who])
        return jnp.mean(ppd(*errors, beta=BETA))

    return _branch(base, descend([layer["user"] for layer in base["layers"]], loss, jax.random.split(key, 300), 1e-3))


@jax.jit
def _win_rate(params, base, wants, known, key):
    """Mean over users of how often the model's sample beats the base's from the same noise."""
    plain = draws(base, key, 256)
    won = jax.vmap(lambda want, u: jnp.mean(draws(params, key, 256, u) @ want > plain @ want))
    return jnp.mean(won(wants, known))


def measure(seed: int) -> dict[str, float]:
    start, learn, known, unseen, run, look = jax.random.split(jax.random.key(seed), 6)
    base = pretrained(network(start, user=WIDTH), learn, steps=1500)
    wants, seen = _people(known, USERS, seed)
    new, told = _people(unseen, UNSEEN, seed)
    alike = jnp.ones_like(seen)
    ours = float(_win_rate(_trained(base, wants, seen, run), base, new, told, look))
    theirs = float(_win_rate(_trained(base, wants, alike, run), base, new, alike[:UNSEEN], look))
    return {"method": ours, "baseline": theirs, "effect": ours - theirs if ours > 0.65 else -1.0}
