"""A model exported to a folder of GGUF files, one per type, with a model card; each file is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.card import write_card
from jaxpo.convert.config_json import write_json
from jaxpo.convert.formats import GGUF, Options, Row, nats, table
from jaxpo.convert.gguf import k_quants
from jaxpo.convert.gguf.hyperparameters import inexpressible_head
from jaxpo.convert.gguf.kinds import KINDS
from jaxpo.convert.gguf.names import DENSE
from jaxpo.convert.gguf.verify import verify_gguf
from jaxpo.convert.gguf.write import check_expressible, unblocked, write_gguf
from jaxpo.convert.hf import folder_in_making
from jaxpo.convert.hf_folder import facts_of_model, params_of, sources_of
from jaxpo.convert.model_io import load_model, read_retriever_of
from jaxpo.convert.open_model import OpenModel, open_model
from jaxpo.convert.shards import Source
from jaxpo.errors import ConfigError
from jaxpo.models.retrieval import PROJECTION, VectorHead


def write(model: Path, out: Path, options: Options) -> list[Row]:
    """Export a model to `OUT/NAME-TYPE.gguf`, leaf by leaf; it is loaded as a whole to be compared, and only then.

    Raises:
      ConfigError: the format cannot say what the model or its tokenizer does; or it needs a program that is not there.
      CheckpointError: a file does not compute what the model computes.
    """
    if out.suffix == ".gguf":
        raise ConfigError(f"export: {out}: name a folder; the files in it get the names of their types, NAME-F32.gguf.")
    if set(options.dtypes) - KINDS.keys():
        k_quants.program()
    with open_model(model) as opened:
        check_expressible(opened.config, opened.tokenizer, opened.generation)
        head, dense = head_of(model)
        with folder_in_making(out, overwrite=options.overwrite) as partial:
            rows, reports = _write_files(opened, partial, out.name, options, head, dense)
            write_card(partial, facts_of_model(model), opened.config, use(rows, head), table(rows), "gguf")
            if options.verify:
                write_json(partial / "verification.json", reports)
    return rows


def head_of(model: Path) -> tuple[VectorHead | None, list[Source]]:
    """How a retriever makes vectors, and its dense layer; nothing of a model that is none.

    Raises:
      ConfigError: it makes them in a way that the format cannot say.
    """
    retriever = read_retriever_of(model)
    if retriever is None:
        return None, []
    layers = load_model(model).params.get(PROJECTION, {}) if retriever.head.activations else {}
    if problems := inexpressible_head(retriever.head, layers):
        raise ConfigError([f"export --format gguf: {problem}." for problem in problems])
    if not layers:
        return retriever.head, []
    weight = np.ascontiguousarray(np.asarray(layers["0"]["weight"], np.float32).T)
    return retriever.head, [Source(DENSE, weight.shape, lambda: weight)]


def use(rows: Sequence[Row], head: VectorHead | None = None) -> tuple[str, ...]:
    """How the files are run, for the model card."""
    first = rows[0].file
    if head is not None:
        each = "token" if head.pooling == "tokens" else "text"
        return (
            f"With llama.cpp: `llama-embedding -m {first}`, or `llama-server -m {first} --embeddings`: a vector for "
            f"each {each}. Prefixes, lengths and the tokens that are not compared are the caller's; jaxpo reads the "
            "folder that the file was made from.",
        )
    return (
        f"With llama.cpp: `llama-cli -m {first}`, or `llama-server -m {first}` for an OpenAI-compatible server.",
        f"Back to jaxpo: `jaxpo import {first} FOLDER`.",
    )


def _write_files(
    opened: OpenModel, folder: Path, name: str, options: Options, head: VectorHead | None, dense: Sequence[Source]
) -> tuple[list[Row], dict[str, Any]]:
    """The files, and what was verified of each by its name."""
    assert opened.tokenizer is not None  # check_expressible
    sources = [*sources_of(opened), *dense]
    own: Mapping[str, Any] = {"name": name, "generation": opened.generation, "head": head}
    params = params_of(opened) if options.verify else None
    rows, reports = [], {}
    for dtype in options.dtypes:
        file, note = folder / f"{name}-{dtype.upper()}.gguf", ""
        if dtype in KINDS:
            planned = write_gguf(file, sources, opened.config, opened.tokenizer, dtype, **own)
            note = _about(unblocked(planned, KINDS[dtype]))
        else:
            whole = folder / "whole.gguf"
            write_gguf(whole, sources, opened.config, opened.tokenizer, "f32", **own)
            k_quants.quantize(whole, file, dtype)
            whole.unlink()
        size = file.stat().st_size
        if not options.verify:
            rows.append(Row(GGUF, file.name, size, note=note))
            continue
        report = reports[file.name] = verify_gguf(file, sources, params, opened.config, dtype)
        rows.append(Row(GGUF, file.name, size, report["by"], nats(report), note))
    return rows, reports


def _about(left: Sequence[str]) -> str:
    """What to say of matrices that could not be quantised."""
    if not left:
        return ""
    return f"{len(left)} matrices stay float16, as their rows are no whole number of blocks: {left[0]} and the like"
