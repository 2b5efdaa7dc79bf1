"""Reward models as Hugging Face sequence-classification checkpoints, out and in.

transformers 5.23 has no `Lfm2ForSequenceClassification`. The checkpoint has the layout that such a class would have
(`model.*` and `score.weight`, one label), and brings the class along (`carried_class`).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert.card import Facts, write_card
from jaxpo.convert.carried_class import CarriedClass
from jaxpo.convert.config_json import CONFIG, config_to_json, export_of, exports, read_json, write_json
from jaxpo.convert.folder import open_folder
from jaxpo.convert.hf import SavesItself, folder_in_making, read_tensors, tensors_of
from jaxpo.convert.shards import Source, parse_size, write_shards
from jaxpo.convert.verify import TOLERANCE, rounded_to
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, family, param_table
from jaxpo.models.heads import value
from jaxpo.models.language import Inputs

Tree = Any
HEAD = "score.weight"
OWN = CarriedClass("SequenceClassification", "modeling_lfm2_reward", "the last token that is not padding")
USE = OWN.use("With jaxpo, the folder wherever a reward model is asked for.")
LABELS = ("reward",)
LENGTHS = (48, 7, 1, 23)
"""Of the sequences compared after an export."""


def export_reward(
    params: Mapping[str, Tree],
    config: TextConfig,
    directory: str | Path,
    *,
    tokenizer: SavesItself | None = None,
    dtype: str = "float32",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    verify: bool = True,
    compare_transformers: bool | None = None,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Write a reward model as a sequence-classification checkpoint with one label.

    Args:
      params: `{"model": ..., "value": ...}`, as a reward stage leaves them.
      directory, tokenizer, dtype, max_shard_size, overwrite: as in `jaxpo.convert.hf.export_hf`.
      verify: read the files back and compare rewards (see `verify_reward`).
      compare_transformers: compare with transformers as well; None = when it is installed.
      facts: what the model card says; None = its name alone.

    Returns:
      What was verified, also stored as `verification.json`; empty when `verify` is False.

    Raises:
      CheckpointError: the folder exists, there is no reward head, or what was written computes something else.
    """
    if export_of(config).reward is None:
        raise CheckpointError(
            f"{directory}: transformers has no sequence classification on {family(config).name!r}, so a reward model "
            "of that family has no such form. Export the model without its head (`jaxpo.convert.hf.export_hf`), or use "
            "the stage's folder: jaxpo reads rewards from it."
        )
    if "value" not in params:
        raise CheckpointError(f"{directory}: the model has no reward head (params['value']); export it as a model.")
    head = params["value"]["weight"]
    if tuple(head.shape) != (config.hidden_size, 1):
        raise CheckpointError(f"value/weight: has shape {tuple(head.shape)}, expected {(config.hidden_size, 1)}.")
    score = Source(HEAD, (1, config.hidden_size), lambda: np.ascontiguousarray(np.asarray(head).T))
    with folder_in_making(directory, overwrite=overwrite) as partial:
        sources = [*tensors_of(params["model"], param_table(config)), score]
        write_shards(partial, sources, dtype, parse_size(max_shard_size))
        document = reward_config_to_json(config, dtype)
        write_json(partial / CONFIG, document)
        OWN.write(partial, config, document["model_type"])
        if tokenizer is not None:
            tokenizer.save(partial)
        write_card(partial, facts or Facts(Path(directory).name), config, USE)
        return verify_reward(params, config, partial, dtype=dtype, transformers=compare_transformers) if verify else {}


def reward_config_to_json(config: TextConfig, dtype: str) -> dict[str, Any]:
    """`config.json`: the model's, with one label and the class that reads it."""
    document = config_to_json(config, dtype)
    return document | OWN.fields(config, document["model_type"], LABELS)


def is_reward(directory: str | Path) -> bool:
    """Whether a folder holds a sequence-classification checkpoint."""
    file = Path(directory) / CONFIG
    known = [[OWN.name(export.classes[kind])] for kind, export in exports().items()]
    return file.is_file() and read_json(file).get("architectures") in known


def import_reward(
    directory: str | Path, *, dtype: Any = jnp.float32, shardings: Tree | None = None
) -> tuple[dict[str, Tree], TextConfig]:
    """Read a reward model: `({"model", "value"}, configuration)`.

    Args:
      dtype, shardings: of the model, as in `jaxpo.convert.hf.import_hf`.

    Raises:
      CheckpointError: as `jaxpo.convert.hf.import_hf`; or there is no head with one label.
    """
    folder = Path(directory)
    with open_folder(folder) as found:
        stored, config = found.tensors, found.config
        shape = tuple(stored[HEAD].shape) if HEAD in stored else None
        if shape != (1, config.hidden_size):
            there = "no such tensor" if shape is None else f"shape {shape}"
            raise CheckpointError(f"{folder}: {HEAD}: {there}; a reward model has {(1, config.hidden_size)}.")
        model = read_tensors(stored, param_table(config), folder, dtype=dtype, shardings=shardings, besides=(HEAD,))
        head = jnp.asarray(np.ascontiguousarray(stored[HEAD].read().T), dtype)
    return {"model": model, "value": {"weight": head}}, config


def verify_reward(
    params: Mapping[str, Tree],
    config: TextConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
    seed: int = 0,
    transformers: bool | None = None,
) -> dict[str, Any]:
    """Compare the rewards of fixed sequences with the parameters they came from; stored as `verification.json`.

    The files are run by the family's float64 numpy forward (`Export.reward`), and by transformers in one right-padded
    batch.

    Args:
      dtype: to which the parameters were rounded when the files were written.

    Returns:
      `{"dtype", "sequences", "max_reward_error", "rounding", "transformers"}`; the errors are absolute, against the
      parameters rounded to the exported type, and, for "rounding", as they are.

    Raises:
      CheckpointError: the export computes something else.
    """
    folder = Path(directory)
    rng = np.random.default_rng(seed)
    # Without the padding token: transformers looks for the last token that is another.
    others = np.setdiff1d(np.arange(config.vocab_size), [config.pad_token_id])
    sequences = [rng.choice(others, n) for n in LENGTHS]
    with open_folder(folder) as found:
        written = found.config
        of_files = export_of(written).reward
        assert of_files is not None
        again = functools.partial(of_files, lambda name: found.tensors[name].read(), written)
        exported = np.asarray([again(s) for s in sequences])
    exact = rewards_of(params, config, sequences)
    rounded = exact if dtype == "float32" else rewards_of(params, config, sequences, dtype)
    report: dict[str, Any] = {
        "dtype": dtype,
        "sequences": len(sequences),
        "max_reward_error": float(np.abs(rounded - exported).max()),
        "rounding": float(np.abs(exact - exported).max()),
    }
    errors = [report["max_reward_error"]]
    if transformers is None:
        transformers = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if transformers:
        errors.append(float(np.abs(rounded - _transformers(folder, sequences, config.pad_token_id)).max()))
    report["transformers"] = errors[-1] if transformers else "not compared: not installed or not asked for"
    write_json(folder / "verification.json", report)
    allowed = TOLERANCE * max(1.0, float(np.abs(rounded).max()))
    if not all(error <= allowed for error in errors):
        raise CheckpointError(
            f"{folder}: the exported files do not compute what the model computes: rewards differ by "
            f"{max(errors):.3g} (allowed: {allowed:.3g})."
        )
    return report


def rewards_of(
    params: Mapping[str, Tree], config: TextConfig, sequences: Sequence[np.ndarray], dtype: str | None = None
) -> np.ndarray:
    """Our rewards of token sequences, `[n]`, in float32 at full precision; weights rounded through `dtype` first."""
    forward = family(config).forward

    @jax.jit
    def run(params: Tree, tokens: jax.Array, length: jax.Array) -> jax.Array:
        if dtype is not None:
            head = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params["value"])
            params = {"model": rounded_to(dtype, params["model"], config), "value": head}
        segments = (jnp.arange(tokens.shape[0]) < length).astype(jnp.int32)[None]
        inputs = Inputs(tokens[None], segments, jnp.arange(tokens.shape[0])[None])
        hidden, _ = forward(params["model"], inputs, config=config, dtype=jnp.float32)
        return value(params["value"], hidden[0, length - 1])

    longest = max(len(s) for s in sequences)
    groups = {name: params[name] for name in ("model", "value")}
    with jax.default_matmul_precision("highest"):
        found = [run(groups, jnp.asarray(np.pad(s, (0, longest - len(s)))), jnp.asarray(len(s))) for s in sequences]
    return np.asarray([float(x) for x in found])


def _transformers(folder: Path, sequences: Sequence[np.ndarray], pad: int) -> np.ndarray:
    """Rewards by the class that the folder brings along, of all sequences in one right-padded batch."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    spec = importlib.util.spec_from_file_location(OWN.module, folder / f"{OWN.module}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = read_json(folder / CONFIG)["architectures"][0]
    model = getattr(module, name).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    longest = max(len(s) for s in sequences)
    tokens = np.stack([np.pad(s, (0, longest - len(s)), constant_values=pad) for s in sequences])
    mask = np.stack([np.arange(longest) < len(s) for s in sequences]).astype(np.int64)
    with torch.no_grad():
        scores = model.eval()(torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), use_cache=False)
    return scores.logits[:, 0].double().numpy()
