"""Exports that another runtime's converter makes of a checkpoint: called, compared, and only then put in place."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.card import write_card
from jaxpo.convert.config_json import write_json
from jaxpo.convert.formats import Options, Row, nats, table
from jaxpo.convert.hf import describe, folder_in_making
from jaxpo.convert.hf_folder import facts_of_model, params_of, sources_of
from jaxpo.convert.open_model import OpenModel, open_model
from jaxpo.convert.runtimes import executorch
from jaxpo.convert.runtimes.runtime import Answers, Runtime, python_of, run
from jaxpo.convert.shards import parse_size, write_shards
from jaxpo.convert.verify import LENGTH, compare, log_probs
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import limits

TOLERANCE = 1e-3
"""Largest difference of a log-prob (nats) that float32 explains; nano models stay below 2e-5."""
DIVERGENCE = 1.0
"""Largest KL of a quantised form, nats per token; a wrong conversion is off by several."""
CHUNKINGS = ((LENGTH,), (1,) * LENGTH, (5, 1, 1, 20, LENGTH - 27))
"""How the tokens are given, on one cache: at once, one by one, in pieces."""
CONTEXT = 2048
"""Positions that ExecuTorch's cache has room for, where the model has them."""


def _mlx_problems(config: Any) -> list[str]:
    return [] if config.model_type in ("lfm2", "lfm2_moe") else [f"mlx-lm runs LFM2, and this is {config.model_type}"]


def _onnx_problems(config: Any) -> list[str]:
    known = config.model_type in ("lfm2", "lfm2_moe")
    return [] if known else [f"ONNX Runtime GenAI builds LFM2, and this is {config.model_type}"]


def _nothing(folder: Path, config: Any, dtype: str) -> None:
    pass


MLX = Runtime(
    "mlx",
    "run_mlx",
    ("mlx-lm", "mlx"),
    "'mlx[cpu]' mlx-lm (on a Mac: mlx-lm)",
    _mlx_problems,
    _nothing,
    "model*.safetensors",
    "mlx",
    ("With MLX: `mlx_lm.generate --model FOLDER --prompt TEXT`.",),
)
ONNX = Runtime(
    "onnx",
    "run_genai",
    ("onnxruntime-genai", "onnxruntime"),
    "onnxruntime-genai onnx onnx-ir torch transformers",
    _onnx_problems,
    _nothing,
    "model.onnx*",
    "onnx",
    ("With ONNX Runtime GenAI: `onnxruntime_genai.Model(FOLDER)`. With ONNX Runtime alone: `model.onnx`.",),
)
EXECUTORCH = Runtime(
    "executorch",
    "run_executorch",
    ("executorch", "torch"),
    "executorch torch transformers safetensors",
    executorch.inexpressible,
    executorch.write_inputs,
    "*.pte",
    "executorch",
    ("With ExecuTorch: `model.pte` takes token ids and the position of the first of them; its cache is inside.",),
)


def write_for(runtime: Runtime, model: Path, out: Path, options: Options) -> list[Row]:
    """Export a model by a runtime's own converter, from a float32 checkpoint that is gone afterwards.

    Raises:
      ConfigError: the runtime is not there, or cannot express the model.
      CheckpointError: its converter fails, or what it wrote computes something else.
    """
    (dtype,) = options.dtypes
    python = python_of(runtime, options.python)
    with open_model(model) as opened:
        problems = runtime.inexpressible(opened.config)
        if opened.tokenizer is None:
            problems.append("its converter reads a tokenizer, and the model's directory has none")
        if problems:
            raise ConfigError([f"export --format {runtime.format}: {problem}." for problem in problems])
        with folder_in_making(out, overwrite=options.overwrite) as partial:
            answers = _convert(runtime, opened, partial, python, dtype, options.verify)
            size = sum(file.stat().st_size for file in partial.glob(runtime.files))
            name = next(file.name for file in sorted(partial.glob(runtime.files)))
            row = Row(runtime.format, name, size)
            if answers is not None:
                report = checked(out, answers, opened, dtype)
                by = ", ".join(f"{package} {version}" for package, version in answers.versions.items())
                row = Row(runtime.format, name, size, by, nats(report))
                write_json(partial / "verification.json", report | {"by": by, "dtype": dtype})
            card = (runtime.use, table([row]), runtime.library)
            write_card(partial, facts_of_model(model), opened.config, *card)
    return [row]


def _convert(
    runtime: Runtime, opened: OpenModel, partial: Path, python: str, dtype: str, verify: bool
) -> Answers | None:
    """The runtime's files in the folder in the making, and what it computes with them."""
    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=f"{partial.name}.") as scratch:
        source, made = Path(scratch) / "source", Path(scratch) / "made"
        source.mkdir()
        write_shards(source, sources_of(opened), "float32", parse_size("1000GB"))
        describe(source, opened.config, "float32", opened.tokenizer, opened.generation, facts_of_model(opened.path))
        runtime.inputs(source, opened.config, dtype)
        request: dict[str, Any] = {"source": str(source), "out": str(made), "dtype": dtype}
        request |= {"context": min(CONTEXT, limits(opened.config).context), "packages": runtime.packages}
        asked = questions(opened.config.vocab_size) if verify else {}
        answers = run(runtime.program, python, request | asked, partial.name)
        for file in made.iterdir():
            shutil.move(file, partial / file.name)
    return answers


def questions(vocabulary: int) -> dict[str, Any]:
    """What every runtime is asked: the tokens that all exports are compared on, and what follows their beginning."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, LENGTH).tolist()
    return {"tokens": tokens, "chunkings": CHUNKINGS, "prompt": tokens[:8], "new": 8}


def checked(out: Path, answers: Answers, opened: OpenModel, dtype: str) -> dict[str, Any]:
    """The largest difference over all chunkings; CheckpointError where arithmetic does not explain it."""
    tokens = np.asarray(questions(opened.config.vocab_size)["tokens"])
    exact = log_probs(params_of(opened), opened.config, tokens, None)
    found = [compare(exact, theirs.astype(np.float64)) for theirs in answers.log_probs]
    worst = {name: max(one[name] for one in found) for name in found[0]}
    fits = worst["max_logprob_error"] <= TOLERANCE if dtype == "float32" else worst["kl"] <= DIVERGENCE
    if not fits:
        raise CheckpointError(
            f"{out}: does not compute what the model computes: log-probs differ by up to "
            f"{worst['max_logprob_error']:.3g} nats, KL {worst['kl']:.3g}."
        )
    return {**worst, "chunkings": [one["max_logprob_error"] for one in found]}


write_mlx = functools.partial(write_for, MLX)
write_onnx = functools.partial(write_for, ONNX)
write_executorch = functools.partial(write_for, EXECUTORCH)
