"""Nano models, dense and mixture, exported to every runtime and compared there (`scripts/deploy_check`)."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from convert.gguf_models import DENSE, MOE, tokenizer, trained

from jaxpo.cli.main import main as jaxpo
from jaxpo.convert.gguf import llama
from jaxpo.convert.hf import export_hf
from jaxpo.convert.runtimes.folder import CHUNKINGS, questions
from jaxpo.convert.runtimes.runtime import run
from jaxpo.convert.verify import compare, log_probs

MODELS = {"dense": DENSE, "mixture": MOE}
FORMS = {
    "mlx": ("float32", "int8", "int4"),
    "onnx": ("float32", "int4"),
    "executorch": ("float32", "8da4w"),
}
WITHOUT = {("executorch", "mixture"): "ExecuTorch's LFM2 has no experts"}
CLOSE = 2e-5
"""Nats: what float32 may differ by, over prefill and cached steps in every chunking."""
PROMPT, NEW = "The quick brown", 16


def main(argv: Sequence[str]) -> int:
    """Check the runtimes whose interpreters are given; 1 where one is not close."""
    parser = argparse.ArgumentParser(prog="scripts/deploy_check", description=__doc__)
    parser.add_argument("--python", action="append", default=[], metavar="RUNTIME=PROGRAM")
    parser.add_argument("--out", type=Path, help="write the table there too")
    args = parser.parse_args(argv)
    pythons = dict(given.split("=", 1) for given in args.python)
    with tempfile.TemporaryDirectory() as folder:
        rows, texts = check(Path(folder), pythons)
    lines = [*table(rows), "", *(f"{name}: {text!r}" for name, text in texts.items())]
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    known = set(WITHOUT.values())
    far = [row for row in rows if row[3] not in known and not _near(row)]
    return 1 if far or len(set(texts.values())) > 1 else 0


def check(folder: Path, pythons: Mapping[str, str]) -> tuple[list[list[Any]], dict[str, str]]:
    """Rows of runtime, model, type, largest difference, KL; and the greedy text of the dense model by runtime."""
    rows, texts = [], {}
    for name, config in MODELS.items():
        source, params = folder / name, trained(config)
        export_hf(params, config, source, tokenizer=tokenizer())
        for format, dtypes in FORMS.items():
            if (python := pythons.get("genai" if format == "onnx" else format)) is None:
                continue
            for dtype in dtypes:
                if why := WITHOUT.get((format, name)):
                    rows.append([format, name, dtype, why, ""])
                    break
                out = folder / f"{name}-{format}-{dtype}"
                rows.append(exported(source, out, format, dtype, python, name))
                if format == "onnx" and "onnxruntime" in pythons and out.is_dir():
                    rows.append(by_onnx_alone(out, pythons["onnxruntime"], params, config, name, dtype))
                if name == "dense" and dtype == "float32" and out.is_dir():
                    texts[format] = greedy_text(out, format, python)
        rows += by_llama(source, folder / f"{name}-gguf", name)
    texts["llama.cpp"] = llama_text(folder / "dense-gguf" / "dense-gguf-F32.gguf")
    return rows, texts


def _near(row: Sequence[Any]) -> bool:
    """Whether it ran, and float32 is float32."""
    return isinstance(row[3], float) and (row[2] != "float32" or row[3] < CLOSE)


def exported(source: Path, out: Path, format: str, dtype: str, python: str, name: str) -> list[Any]:
    """One row, by the command that a user types."""
    said = io.StringIO()
    command = ["export", str(source), str(out), "--format", format, "--dtype", dtype, "--python", python]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = jaxpo(command)
    print(said.getvalue(), flush=True)
    if code:
        return [format, name, dtype, said.getvalue().strip()[-300:], ""]
    report = json.loads((out / "verification.json").read_text())
    return [report["by"], name, dtype, report["max_logprob_error"], report["kl"]]


def by_onnx_alone(out: Path, python: str, params: Any, config: Any, name: str, dtype: str) -> list[Any]:
    """The same file in ONNX Runtime without GenAI."""
    asked = questions(config.vocab_size)
    request = {"out": str(out), "dtype": dtype, "packages": ("onnxruntime",), **asked}
    answers = run("run_onnx", python, request, out.name)
    assert answers is not None
    exact = log_probs(params, config, np.asarray(asked["tokens"]), None)
    found = [compare(exact, theirs.astype(np.float64)) for theirs in answers.log_probs]
    assert len(found) == len(CHUNKINGS)
    worst = {key: max(one[key] for one in found) for key in found[0]}
    return [f"onnxruntime {answers.versions['onnxruntime']} alone", name, dtype, *worst.values()]


def by_llama(source: Path, out: Path, name: str) -> list[list[Any]]:
    """llama.cpp, of whose steps the tests have more (`tests/convert/test_gguf_llama.py`)."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert jaxpo(["export", str(source), str(out), "--format", "gguf", "--dtype", "f32,q8_0,q4_0"]) == 0
    report = json.loads((out / "verification.json").read_text())
    return [
        [one["by"], name, one["dtype"].replace("f32", "float32"), one["max_logprob_error"], one["kl"]]
        for one in report.values()
    ]


def prompt_ids() -> list[int]:
    """The prompt with its first token."""
    return [tokenizer().bos_id, *tokenizer().encode(PROMPT)]


def greedy_text(out: Path, format: str, python: str) -> str:
    """What a runtime writes after the prompt."""
    program = {"mlx": "run_mlx", "onnx": "run_genai", "executorch": "run_executorch"}[format]
    request = {"out": str(out), "packages": (), "tokens": prompt_ids(), "chunkings": (), "prompt": prompt_ids()}
    answers = run(program, python, {**request, "chunkings": [[len(prompt_ids())]], "new": NEW}, out.name)
    assert answers is not None
    return tokenizer().decode(answers.ids)


def llama_text(file: Path) -> str:
    """What llama.cpp writes after it."""
    asked = llama.Questions(greedy=[prompt_ids()], new=NEW)
    return tokenizer().decode(llama.ask(file, DENSE.vocab_size, asked).continuations[0])


def table(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Markdown."""
    yield "| runtime | model | type | largest difference, nats | KL, nats per token |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(f"{cell:.1e}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
