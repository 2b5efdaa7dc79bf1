"""The package itself: every recipe loads, and the devices compute."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.library import names
from jaxpo.recipe.overrides import load_run
from jaxpo.selftest import require


def recipes(folder: Path) -> str:
    """How many recipes and methods came with the package.

    Raises:
      Broken: there are none.
    """
    loaded = [load_run(name) for name in names()]
    require(bool(loaded), "the package holds no recipe")
    return f"{len(loaded)} load (`jaxpo recipes`); {len(METHODS)} methods (`jaxpo losses`)"


def devices(folder: Path) -> str:
    """The devices, each of which has multiplied two matrices.

    Raises:
      Broken: one of them computes something else than the processor.
    """
    a, b = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    found = jax.devices()
    for device in found:
        with jax.default_device(device):
            product = jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision="highest")
        require(np.allclose(np.asarray(product), a @ b, atol=1e-3), f"{device} multiplies wrongly")
    return f"{len(found)} x {found[0].platform} {found[0].device_kind}"
