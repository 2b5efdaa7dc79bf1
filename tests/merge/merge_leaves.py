"""Leaves to merge: a base and models that moved from it by less than its size."""

import numpy as np

from jaxpo.merge.dare import drawn
from jaxpo.merge.thinned import factor_of, merge_thinned


def leaves(count=3, shape=(7, 11), seed=0, delta=0.1):
    """`(base, [models])`, float32."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=shape).astype(np.float32)
    return base, [(base + delta * rng.normal(size=shape)).astype(np.float32) for _ in range(count)]


def generators(seed=0):
    """Random numbers per model, as `Inputs.draw`."""
    return lambda model: np.random.default_rng([seed, model])


def drop(delta, density, random, rescale="expected"):
    """A task vector as DARE thins it, seen through a base of zeros."""
    base, mask = np.zeros_like(delta), drawn(delta.shape, density, random)
    factor = factor_of(base, delta, mask, density, rescale)
    return merge_thinned(base, [delta], [mask], [factor], lambda origin, taus: taus[0])
