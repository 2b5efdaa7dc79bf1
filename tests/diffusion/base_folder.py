"""The trained base as a folder that stages start from: `jaxpo run diffusion --base FOLDER`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusion.base import ASSET, CONFIG, base

from jaxpo.convert.model_io import TOKENIZER, save_model
from jaxpo.corpora.scenes.corpus import tokenizer
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params, leaves
from jaxpo.recipes.diffusion import MODEL

Tree = Any


def model(users: int = 0) -> tuple[Tree, Any]:
    """Parameters and configuration as the recipe has them.

    The tower has the recipe's positions, no more than were trained, and rows for the special tokens of a tokenizer.

    Args:
      users: width of the vectors of users; their branch is fresh, and adds nothing at first.
    """
    config = replace(MODEL, user_channels=users)
    trained = dict(zip((name for name, _ in leaves(param_table(CONFIG))), jax.tree.leaves(base()), strict=True))
    fresh = init_params(param_table(config), jax.random.key(0))
    names = [name for name, _ in leaves(param_table(config))]
    values = [_fitted(trained.get(name), own) for name, own in zip(names, jax.tree.leaves(fresh), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(fresh), values), config


def _fitted(trained: np.ndarray | None, fresh: jax.Array) -> jax.Array:
    """The trained values, without rows that there are too many of and with rows of zeros where there are too few."""
    if trained is None:
        return fresh
    if trained.shape == fresh.shape:
        return jnp.asarray(trained)
    kept = trained[: fresh.shape[0]]
    return jnp.pad(kept, ((0, fresh.shape[0] - len(kept)), (0, 0)))


def write(folder: Path, users: int = 0) -> None:
    """Write the model, and its tokenizer beside it."""
    params, config = model(users)
    save_model(folder, {"model": params}, config, {"stage": "base", "trained_on": f"scenes ({ASSET.name})"})
    Tokenizer(tokenizer()).save(folder / TOKENIZER)
