"""The vectors of an exported retriever, computed from its files by another implementation and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert.config_json import export_of, write_json
from jaxpo.convert.folder import open_folder
from jaxpo.convert.pylate_files import read_retriever
from jaxpo.convert.retriever import Retriever
from jaxpo.convert.verify import TOLERANCE, rounded_to
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, family, limits
from jaxpo.models.language import Inputs
from jaxpo.models.retrieval import PROJECTION, VectorHead, project

Tree = Any


def verify_vectors(
    params: Mapping[str, Tree], config: TextConfig, retriever: Retriever, folder: Path, dtype: str
) -> dict[str, Any]:
    """Compare the vectors of fixed tokens with those that the files give; stored as `verification.json`.

    The model is read from its files and run by the family's float64 numpy forward, the dense layers with numpy.

    Raises:
      CheckpointError: they differ.
    """
    tokens = np.random.default_rng(0).integers(0, limits(config).vocabulary, 48)
    layers, again = read_retriever(folder)
    with open_folder(folder) as found:
        hidden = export_of(found.config).hidden(lambda name: found.tensors[name].read(), found.config, tokens)
    theirs = _numpy_vectors(hidden, layers.get(PROJECTION, {}), again.head)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(_vectors(params, config, retriever.head, jnp.asarray(tokens), dtype))
    error = float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
    report = {"dtype": dtype, "tokens": len(tokens), "max_vector_error": error}
    write_json(folder / "verification.json", report)
    if not error <= TOLERANCE:
        raise CheckpointError(
            f"{folder}: the exported files give other vectors than the model: they differ by {error:.3g}."
        )
    if again != retriever:
        raise CheckpointError(f"{folder}: the files say of texts and vectors something else than the model does.")
    return report


def _vectors(
    params: Mapping[str, Tree], config: TextConfig, head: VectorHead, tokens: jax.Array, dtype: str
) -> jax.Array:
    model = params["model"] if dtype == "float32" else rounded_to(dtype, params["model"], config)
    inputs = Inputs(tokens[None], jnp.ones((1, len(tokens)), jnp.int32), jnp.arange(len(tokens))[None])
    hidden, _ = family(config).forward(model, inputs, config=config, dtype=jnp.float32)
    return project(params.get(PROJECTION, {}), hidden[0], head)


def _numpy_vectors(x: np.ndarray, layers: Tree, head: VectorHead) -> np.ndarray:
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "identity": lambda x: x,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2,
        "silu": lambda x: x / (1 + np.exp(-x)),
    }
    for i, name in enumerate(head.activations):
        layer = {key: np.asarray(value, np.float64) for key, value in layers[str(i)].items()}
        y = functions[name](x @ layer["weight"] + layer.get("bias", 0.0))
        x = y + x @ layer["residual"] if "residual" in layer else y
    return x / np.linalg.norm(x, axis=-1, keepdims=True) if head.normalize else x
