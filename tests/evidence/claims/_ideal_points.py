"""Users between two ideal points who compare items of the plane; PAL-A without a network, fitted to their pairs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam

from jaxpo.losses import pal, pal_distance, pal_mixture

USERS, PAIRS, HELD_OUT, NOISE, STEPS = 20, 50, 200, 0.05, 800
POINTS = np.asarray([[3.0, 0.0], [-3.0, 0.0]])


def comparisons(rng, mixtures, n, noise):
    """Chosen and rejected items `[U, n, 2]`: the nearer to a user's own point is better, some labels are flipped."""
    ideal = mixtures @ POINTS
    items = 2.0 * rng.standard_normal((2, len(mixtures), n, 2))
    nearer = np.linalg.norm(items - ideal[:, None], axis=-1)
    first = (nearer[0] < nearer[1]) ^ (rng.random(nearer[0].shape) < noise)
    chosen = np.where(first[..., None], items[0], items[1])
    rejected = np.where(first[..., None], items[1], items[0])
    return jnp.asarray(chosen, jnp.float32), jnp.asarray(rejected, jnp.float32)


def scores(params, items):
    """-|x - P^T w| of items `[U, n, 2]`."""
    ideal = pal_mixture(params["users"]) @ params["prototypes"]
    return -pal_distance(items, ideal[:, None])


def objective(params, chosen, rejected):
    c, r = scores(params, chosen), scores(params, rejected)
    flat = c.reshape(-1, 1), r.reshape(-1, 1)
    return jnp.mean(pal(*flat, jnp.ones_like(flat[0])))


def accuracy(params, chosen, rejected):
    return float(jnp.mean(scores(params, chosen) > scores(params, rejected)))


_both = adam(objective, STEPS, 0.05)
_users = adam(
    lambda users, prototypes, *data: objective({"users": users, "prototypes": prototypes}, *data), STEPS, 0.05
)


def fitted(rng, prototypes, chosen, rejected):
    """All parameters, of K prototypes."""
    start = {
        "prototypes": jnp.asarray(rng.standard_normal((prototypes, 2)), jnp.float32),
        "users": jnp.asarray(rng.standard_normal((len(chosen), prototypes)), jnp.float32),
    }
    return _both(start, chosen, rejected)


def newcomers(params, chosen, rejected):
    """The logits of new users alone, the prototypes as they are."""
    start = jnp.zeros((len(chosen), params["prototypes"].shape[0]))
    return {"prototypes": params["prototypes"], "users": _users(start, params["prototypes"], chosen, rejected)}


def mixtures(rng, n):
    """`[n, 2]`, uniform on the simplex."""
    first = rng.random(n)
    return np.stack([first, 1 - first], axis=1)
