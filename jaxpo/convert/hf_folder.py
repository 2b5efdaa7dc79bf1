"""A model exported to a Hugging Face folder leaf by leaf, whatever it lies in: run, stage, checkpoint or adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpo.convert.card import Facts, facts_of
from jaxpo.convert.folder import is_export
from jaxpo.convert.formats import HF, Options, Row, nats
from jaxpo.convert.hf import describe, folder_in_making, read_tensors
from jaxpo.convert.kept import kept
from jaxpo.convert.model_io import import_record
from jaxpo.convert.open_model import OpenModel, open_model
from jaxpo.convert.shards import Source, parse_size, write_shards
from jaxpo.convert.verify import verify as verify_export
from jaxpo.models.family import param_table
from jaxpo.models.spec import leaves


def write(model: Path, out: Path, options: Options) -> list[Row]:
    """Export a model; see `export_opened`."""
    with open_model(model) as opened:
        report = export_opened(opened, out, options, facts_of_model(model))
    weights = sorted(out.glob("*.safetensors"))
    file = weights[0].name if len(weights) == 1 else f"{len(weights)} shards"
    size = sum(shard.stat().st_size for shard in weights)
    if not report:
        return [Row(HF, file, size)]
    by = "transformers, float64 numpy" if isinstance(report["transformers"], dict) else "float64 numpy"
    return [Row(HF, file, size, by, nats(report))]


def export_opened(opened: OpenModel, out: Path, options: Options, facts: Facts) -> dict[str, Any]:
    """Write a checkpoint with one leaf in memory at a time; the whole model is loaded to verify it, and only then.

    Returns:
      What was verified; see `jaxpo.convert.hf.export_hf`.
    """
    (dtype,) = options.dtypes
    with folder_in_making(out, overwrite=options.overwrite) as partial:
        write_shards(partial, sources_of(opened), dtype, parse_size(options.max_shard_size))
        describe(partial, opened.config, dtype, opened.tokenizer, opened.generation, facts)
        if not options.verify:
            return {}
        return verify_export(params_of(opened), opened.config, partial, dtype=dtype)


def sources_of(opened: OpenModel) -> list[Source]:
    """What to write, in the table's order; every leaf is read when its turn comes."""
    table = leaves(param_table(opened.config))
    own = {name: "float32" for _, param in table if param.buffer for name in param.tensors}
    return [Source(name, leaf.shape, leaf.read, own.get(name)) for name, leaf in opened.leaves.items()]


def params_of(opened: OpenModel) -> Any:
    """The whole model in memory, in float32."""
    return read_tensors(opened.leaves, param_table(opened.config), opened.path)


def facts_of_model(model: Path) -> Facts:
    """What the model card says, of a model that is not loaded."""
    about: Mapping[str, Any] = import_record(model) if is_export(model) else kept(model).about
    return facts_of(model, about)
