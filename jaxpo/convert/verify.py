"""Numerical check of an exported checkpoint: what was written is run by another implementation and compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert.config_json import export_of, write_json
from jaxpo.convert.folder import open_folder
from jaxpo.data.packing.batch import Media
from jaxpo.errors import CheckpointError
from jaxpo.models.export import Seen
from jaxpo.models.family import Config, TextConfig, family, limits, output_matrix, param_table
from jaxpo.models.language import Inputs
from jaxpo.models.spec import map_table

Tree = Any
TOLERANCE = 1e-3
"""Largest log-prob difference (nats) that float32 arithmetic explains; a wrong conversion is off by whole nats."""
KIND = "image"
"""Of what is seen, in batches."""
LENGTH = 48
"""Tokens that are compared."""


def verify(
    params: Tree,
    config: TextConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
    transformers: bool | None = None,
) -> dict[str, Any]:
    """Compare the files of a folder with parameters (see `compare_files`); store the result as `verification.json`.

    Raises:
      CheckpointError: the files compute something else.
    """
    folder = Path(directory)
    report = compare_files(params, config, folder, dtype=dtype, transformers=transformers)
    write_json(folder / "verification.json", report)
    check_errors(report, folder)
    return report


def compare_files(
    params: Tree,
    config: TextConfig,
    folder: Path,
    *,
    dtype: str = "float32",
    transformers: bool | None = None,
) -> dict[str, Any]:
    """Compare the files of a folder with parameters on fixed tokens; the folder is only read.

    The files are read with `safetensors` and run by the family's float64 numpy forward (`Export.logits`). They are
    compared with the parameters rounded to the exported type (conversion; must agree to `TOLERANCE`), and with the
    parameters as they are (what rounding costs).

    Args:
      folder: a finished export, or what was imported.
      dtype: to which the parameters were rounded when the files were written.
      transformers: also load the folder with the family's class (`Export.loader`); None = when torch and transformers
        are installed.

    Returns:
      `{"dtype", "tokens", "max_logprob_error", "kl", "rounding": {...}, "transformers": {...} or the reason why not}`;
      errors in nats, KL(parameters || export) as the mean over positions.
    """
    tokens = compared_tokens(config, LENGTH, 0)
    with open_folder(folder) as found:
        written = found.config
        exported = log_softmax(export_of(written).logits(lambda name: found.tensors[name].read(), written, tokens))
    exact = log_probs(params, config, tokens, None)
    rounded = exact if dtype == "float32" else log_probs(params, config, tokens, dtype)
    report: dict[str, Any] = {
        "dtype": dtype,
        "tokens": LENGTH,
        **compare(rounded, exported),
        "rounding": compare(exact, exported),
    }
    if not limits(config).causal:
        report["transformers"] = "not compared: it has no such model that looks both ways"
        return report
    if transformers is None:
        transformers = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    report["transformers"] = (
        compare(rounded, _transformers(folder, config, tokens))
        if transformers
        else "not compared: not installed or not asked for"
    )
    return report


def compared_tokens(config: TextConfig, length: int, seed: int) -> np.ndarray:
    """`[length]` random ids; where the family sees, an image's stand in its places (`Export.seen`) and nowhere else."""
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, length)
    if (image := _seen(config)) is not None:
        tokens[tokens == image.token_id] = (image.token_id + 1) % config.vocab_size
        tokens[_places(image)] = image.token_id
    return tokens


def _seen(config: Config) -> Seen | None:
    export = family(config).export
    return None if export is None or export.seen is None else export.seen(config)


def _places(image: Seen) -> slice:
    return slice(image.first, image.first + image.vectors)


def _inputs(config: Config, tokens: jax.Array) -> Inputs:
    """One row of tokens, with its image where the family sees."""
    segments, positions = jnp.ones((1, tokens.shape[0]), jnp.int32), jnp.arange(tokens.shape[0])[None]
    image = _seen(config)
    if image is None:
        return Inputs(tokens[None], segments, positions)
    where = np.stack(np.meshgrid(np.arange(image.rows), np.arange(image.columns), indexing="ij"), -1).reshape(-1, 2)
    # The four patches of a vector stand together; vectors and their patches go row by row.
    order = np.lexsort((where[:, 1] % 2, where[:, 0] % 2, where[:, 1] // 2, where[:, 0] // 2))
    size = np.broadcast_to((image.rows, image.columns), where.shape)
    patches = jnp.asarray(image.patches[order])[None]
    media = Media(
        patches, jnp.ones((1, len(where)), jnp.int32), jnp.asarray(np.concatenate([where, size], 1)[order])[None]
    )
    places = np.full((1, tokens.shape[0]), -1, np.int32)
    places[0, _places(image)] = np.arange(image.vectors)
    return Inputs(tokens[None], segments, positions, media={KIND: media}, places=jnp.asarray(places))


def check_errors(report: Mapping[str, Any], folder: Path) -> None:
    """CheckpointError when a comparison found more than float32 arithmetic explains."""
    theirs = report["transformers"]
    errors = [report["max_logprob_error"], *([theirs["max_logprob_error"]] if isinstance(theirs, dict) else [])]
    if not all(error <= TOLERANCE for error in errors):
        raise CheckpointError(
            f"{folder}: the exported files do not compute what the model computes: log-probs differ by "
            f"{max(errors):.3g} nats (allowed: {TOLERANCE:g})."
        )


def log_probs(params: Tree, config: Config, tokens: np.ndarray, dtype: str | None) -> np.ndarray:
    """Log-probs `[S, V]` of our own forward, in float32 at full precision; weights rounded through `dtype` first."""
    forward = family(config).forward

    @jax.jit
    def logits(params: Tree, tokens: jax.Array) -> jax.Array:
        if dtype is not None:
            params = rounded_to(dtype, params, config)
        hidden, _ = forward(params, _inputs(config, tokens), config=config, dtype=jnp.float32)
        return hidden[0] @ output_matrix(params, config).astype(jnp.float32).T

    with jax.default_matmul_precision("highest"):
        return log_softmax(np.asarray(logits(params, jnp.asarray(tokens)), np.float64))


def rounded_to(dtype: str, params: Tree, config: Config) -> Tree:
    """The model as a file of that type holds it, in float32."""
    return map_table(lambda p, x: x.astype(p.dtype(dtype)).astype(jnp.float32), param_table(config), params)


def _transformers(folder: Path, config: Config, tokens: np.ndarray) -> np.ndarray:
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loader = getattr(transformers, export_of(config).loader)
    model = loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    shown = {}
    if (image := _seen(config)) is not None:
        shown = {
            "pixel_values": torch.from_numpy(image.patches)[None],
            "spatial_shapes": torch.tensor([[image.rows, image.columns]]),
            "pixel_attention_mask": torch.ones((1, len(image.patches)), dtype=torch.int64),
        }
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None], **shown).logits[0]
    return log_softmax(logits.double().numpy())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in the input's type."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Largest difference of two tables of log-probs `[S, V]`, and the mean KL(ours || theirs)."""
    return {
        "max_logprob_error": float(np.abs(ours - theirs).max()),
        "kl": float((np.exp(ours) * (ours - theirs)).sum(axis=-1).mean()),
    }
