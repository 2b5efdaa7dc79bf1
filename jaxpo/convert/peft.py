"""Adapters as PEFT files: `adapter_model.safetensors` and `adapter_config.json`, verified after they are written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from jaxpo.config import LoRA
from jaxpo.convert.adapter_folder import ADAPTER_CONFIG, WEIGHTS
from jaxpo.convert.card import Facts, write_card
from jaxpo.convert.config_json import export_of, read_json, write_json
from jaxpo.convert.hf import folder_in_making, tensors_of
from jaxpo.convert.shards import SINGLE, write_shards
from jaxpo.convert.verify import TOLERANCE, compare, compared_tokens, log_probs, log_softmax
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.lowrank import PEFT_PREFIX, adapter_leaves, adapter_table, is_projection, merge, scale_of
from jaxpo.models.spec import Param, Table, leaves

Tree = Any


def export_peft(
    adapter: Tree,
    lora: LoRA,
    base: Tree,
    config: TextConfig,
    directory: str | Path,
    *,
    merged: Tree | None = None,
    base_name: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    verify: bool = True,
    facts: Facts | None = None,
) -> dict[str, Any]:
    """Write an adapter that `peft.PeftModel.from_pretrained` loads onto the transformers model of its base.

    Args:
      adapter: the adapter's tree (`State.params["adapter"]`).
      base: the tree of the model that it was trained beside.
      directory: the folder to make; nothing is found under its name before everything is written and verified.
      merged: the model that the stage handed on, with which the files are compared; None merges base and adapter.
      base_name: `base_model_name_or_path`: where the base lies as a Hugging Face checkpoint.
      dtype: "float32" or "bfloat16" on disk.
      overwrite: replace an existing folder.
      verify: see `verify_peft`.
      facts: what the model card says; None = its name alone.

    Returns:
      What was verified, also stored as `verification.json`; empty when `verify` is False.

    Raises:
      CheckpointError: the folder exists, or base and files together compute something else than the merged model.
    """
    table = adapter_table(param_table(config), lora)
    with folder_in_making(directory, overwrite=overwrite) as partial:
        write_shards(partial, tensors_of(adapter, table), dtype, sys.maxsize)  # one file: PEFT knows no shards
        (partial / SINGLE).rename(partial / WEIGHTS)
        write_json(partial / ADAPTER_CONFIG, peft_config(param_table(config), table, lora, base_name))
        card = use(base_name, export_of(config).loader)
        write_card(partial, facts or Facts(Path(directory).name), config, card, library="peft")
        if not verify:
            return {}
        merged = merge(base, adapter, scale_of(lora)) if merged is None else merged
        return verify_peft(adapter, lora, base, merged, config, partial, dtype)


def use(base_name: str | None, loader: str) -> tuple[str, ...]:
    """How an adapter is loaded onto its base, which a class of transformers loads, for its model card."""
    base = base_name or "BASE"
    return (
        "```python",
        "from peft import PeftModel",
        f"from transformers import {loader}",
        "",
        f'model = PeftModel.from_pretrained({loader}.from_pretrained("{base}"), "FOLDER")',
        "```",
        "",
        "With jaxpo, the folder wherever a model is asked for.",
    )


def peft_config(model: Table, adapter: Table, lora: LoRA, base_name: str | None) -> dict[str, Any]:
    """The keys of `adapter_config.json` that a LoRA without extras sets; PEFT has defaults for the others."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "use_rslora": lora.use_rslora,
        "target_modules": target_modules(model, adapter),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
    }


def target_modules(model: Table, adapter: Table) -> list[str]:
    """What PEFT adapts: a module's last name where all that bear it are adapted ("q_proj"), full names elsewhere."""
    named = dict(leaves(model))
    every = {path: _module(p) for path, p in named.items() if is_projection(p)}
    adapted = {every[path] for path, _, _ in adapter_leaves(adapter)}
    left_out = {_last(module) for module in every.values() if module not in adapted}
    return sorted({module if _last(module) in left_out else _last(module) for module in adapted})


def _module(param: Param) -> str:
    if param.module is None:
        raise CheckpointError("an adapted parameter has no counterpart in a Hugging Face model.")
    return param.module


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def verify_peft(
    adapter: Tree,
    lora: LoRA,
    base: Tree,
    merged: Tree,
    config: TextConfig,
    folder: Path,
    dtype: str,
    *,
    length: int = 48,
    seed: int = 0,
) -> dict[str, Any]:
    """Read the files back, join them with the base as PEFT does, and compare log-probs with the merged model.

    Names, scale and adapted modules come from the files; the model is run by the family's float64 numpy forward
    (`Export.logits`), which shares no code with the one that trained.

    Raises:
      CheckpointError: the files compute something else, or PEFT would adapt other modules than they hold.
    """
    document, stored = read_json(folder / ADAPTER_CONFIG), _read(folder / WEIGHTS)
    weights = {tensor.name: tensor.load for tensor in tensors_of(base, param_table(config))}
    # Experts have no module of their own in transformers, and `adapter_table` gives them no adapter.
    modules = {p.hf: p.module for _, p in leaves(param_table(config)) if isinstance(p.hf, str) and p.module is not None}
    targets = [m for m in modules.values() if any(m == t or m.endswith(f".{t}") for t in document["target_modules"])]
    names = {f"{PEFT_PREFIX}{m}.lora_{side}.weight" for m in targets for side in "AB"}
    if names != set(stored):
        raise CheckpointError(f"{folder}: target_modules of {ADAPTER_CONFIG} does not name the modules in {WEIGHTS}.")
    rank = document["r"]
    scale = document["lora_alpha"] / (np.sqrt(rank) if document["use_rslora"] else rank)

    def tensor(name: str) -> np.ndarray:
        value, module = np.asarray(weights[name](), np.float64), modules.get(name)
        if module not in targets:
            return value
        a, b = (stored[f"{PEFT_PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        return value + scale * (b @ a)

    tokens = compared_tokens(config, length, seed)
    written = log_softmax(export_of(config).logits(tensor, config, tokens))
    exact = log_probs(merged, config, tokens, None)
    rounded = exact if dtype == "float32" else log_probs(_rounded(adapter, lora, base, dtype), config, tokens, None)
    report: dict[str, Any] = {
        "dtype": dtype,
        "tokens": length,
        **compare(rounded, written),
        "rounding": compare(exact, written),
    }
    write_json(folder / "verification.json", report)
    if not report["max_logprob_error"] <= TOLERANCE:
        raise CheckpointError(
            f"{folder}: base and adapter files do not compute what the merged model computes: log-probs differ by "
            f"{report['max_logprob_error']:.3g} nats (allowed: {TOLERANCE:g})."
        )
    return report


def _rounded(adapter: Tree, lora: LoRA, base: Tree, dtype: str) -> Tree:
    coarse = jax.tree.map(lambda x: jnp.asarray(x).astype(dtype).astype(jnp.float32), adapter)
    return merge(base, coarse, scale_of(lora))


def _read(file: Path) -> Mapping[str, np.ndarray]:
    with safe_open(file, framework="np") as opened:
        return {name: np.asarray(opened.get_tensor(name), np.float64) for name in opened.keys()}  # noqa: SIM118
