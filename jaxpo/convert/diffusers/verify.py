"""What was written is read back, and run by diffusers where that is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxpo.convert.config_json import write_json
from jaxpo.convert.diffusers.files import component_of, form_of, place_of, user_names
from jaxpo.convert.hf import tensors_of
from jaxpo.convert.shards import DTYPES, open_file
from jaxpo.errors import CheckpointError
from jaxpo.models.family import denoiser, param_table

Tree = Any
TOLERANCE = 1e-3
"""Of the largest output: float32 sums in another order, through all layers."""
TEXT = 8
"""Tokens of the text that a comparison gives the model."""


def verify_pipeline(
    folder: Path, params: Tree, config: Any, dtype: str, diffusers: bool | None = None
) -> dict[str, Any]:
    """Every tensor lies in its file, bit for bit; diffusers computes from the files what jaxpo computes.

    Raises:
      CheckpointError: a tensor differs or is absent, or the outputs do.
    """
    tensors = _check_files(folder, params, config, dtype)
    outputs: Any = "not asked for"
    if diffusers is not False:
        outputs = compare_outputs(folder, params if dtype == "float32" else _rounded(params), config)
    report = {"dtype": dtype, "tensors": tensors, "diffusers": outputs}
    write_json(folder / "verification.json", report)
    return report


def compare_outputs(folder: Path, params: Tree, config: Any) -> dict[str, Any] | str:
    """What diffusers computes from a pipeline's files beside what jaxpo computes; a word where it is not installed.

    Raises:
      CheckpointError: they differ.
    """
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers is not installed: not run by another program"
    report = _compare(folder, params, config)
    if not report["max_error"] <= TOLERANCE:
        raise CheckpointError(
            f"{folder}: diffusers computes something else from these files: outputs differ by "
            f"{report['max_error']:.3g} of the largest (allowed: {TOLERANCE:g})."
        )
    return report


def _check_files(folder: Path, params: Tree, config: Any, dtype: str) -> int:
    """Number of tensors, after each was found in its file as it was given."""
    sources, form = tensors_of(params, param_table(config)), form_of(config)
    users = user_names(source.name for source in sources)
    by_file: dict[str, list[Any]] = {}
    for source in sources:
        file, name = place_of(source.name, users, form)
        by_file.setdefault(file, []).append((name, source))
    for file, inside in by_file.items():
        with open_file(folder / file) as stored:
            for name, source in inside:
                given = np.ascontiguousarray(source.load()).astype(DTYPES[dtype][1])
                if name not in stored or stored[name].read().tobytes() != given.tobytes():
                    raise CheckpointError(f"{folder / file}: {name} is not what was written.")
    return len(sources)


def _compare(folder: Path, params: Tree, config: Any) -> dict[str, Any]:
    """The largest difference of outputs, as a part of the largest output, on one random image."""
    import diffusers
    import torch

    form = form_of(config)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, config.in_channels, config.sample_size, config.sample_size), np.float32)
    text = rng.standard_normal((1, TEXT, config.context_channels), np.float32)
    model = getattr(diffusers, form.classes[0]).from_pretrained(component_of(folder).folder).float().eval()
    more = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}} if form.component != "unet" else {}
    with torch.no_grad():
        given = {"timestep": torch.tensor([500]), "encoder_hidden_states": torch.from_numpy(text), **more}
        theirs = model(torch.from_numpy(x), **given).sample.numpy()
    theirs = theirs[:, : config.in_channels].transpose(0, 2, 3, 1)
    inputs = jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray([500]), jnp.asarray(text)
    ours = np.asarray(denoiser(config)(params, *inputs, config=config))
    scale = max(float(np.abs(theirs).max()), 1e-6)
    return {"version": diffusers.__version__, "max_error": float(np.abs(ours - theirs).max()) / scale}


def _rounded(params: Tree) -> Tree:
    return jax.tree.map(lambda w: jnp.asarray(np.asarray(w).astype(ml_dtypes.bfloat16), jnp.float32), params)
