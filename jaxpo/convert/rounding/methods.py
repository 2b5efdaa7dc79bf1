"""`jaxpo quantize`'s methods: from a model and perhaps a text to the same model on a grid."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxpo.convert.rounding.awq import scaled
from jaxpo.convert.rounding.gptq import gptq
from jaxpo.convert.rounding.inputs import Grams, input_grams
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.grids import Placed, check_some, placements
from jaxpo.models.spec import leaves
from jaxpo.ops.grids import Grid, absmax_scales, best_scales, rounded

Tree = Any
METHODS = {
    "rtn": "round to nearest, scale = largest magnitude",
    "mse": "round to nearest, the scale of least squared error",
    "gptq": "columns in turn, each making up for those before it, on the text (arXiv 2210.17323)",
    "awq": "weights of large inputs made larger first, on the text (arXiv 2306.00978)",
}
CALIBRATED = ("gptq", "awq")


def quantize_model(params: Tree, config: TextConfig, to: Grid, method: str, windows: np.ndarray | None = None) -> Tree:
    """The model with its matrices on a grid, as ordinary float32 arrays.

    Args:
      method: one of `METHODS`.
      windows: `[n, S]` token ids of the text that the calibrated ones look at.

    Raises:
      ConfigError: an unknown method, one without its text, a grid that fits no matrix, or a family without joints.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; there are {', '.join(METHODS)}.")
    if method in CALIBRATED and (windows is None or not len(windows)):
        raise ConfigError(f"method {method} looks at a text, and there is none; give one.")
    table = param_table(config)
    check_some(table, config, to)
    paths = dict(leaves(table))
    found = placements(table, config, to)
    at = {path: found[id(param)] for path, param in paths.items() if id(param) in found}
    values = jax.tree.leaves(params)
    weights = {path: np.asarray(value, np.float32) for path, value in zip(paths, values, strict=True)}
    grams: Grams = {}
    if windows is not None and method in CALIBRATED:
        grams = input_grams(params, config, windows, {path: place.axis for path, place in at.items()})
    if method == "awq":
        weights = scaled(weights, grams, config.num_hidden_layers, to)
    done = {path: _rounded(w, at[path], grams.get(path), method) if path in at else w for path, w in weights.items()}
    return jax.tree.unflatten(jax.tree.structure(params), list(done.values()))


def _rounded(w: np.ndarray, place: Placed, gram: Any, method: str) -> np.ndarray:
    last = np.moveaxis(w, place.axis, -1)
    if method != "gptq":
        scales = (absmax_scales if method == "rtn" else best_scales)(last, place.grid)
        done = rounded(last, place.grid, scales)
    elif gram is not None and gram.ndim == 3:
        done = np.stack([gptq(one, own, place.grid) for one, own in zip(last, gram, strict=True)])
    else:
        done = gptq(last.reshape(-1, last.shape[-1]), gram, place.grid).reshape(last.shape)
    return np.ascontiguousarray(np.moveaxis(done, -1, place.axis))
