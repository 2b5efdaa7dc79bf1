"""llama.cpp itself, through `xllamacpp`, in a process of its own: what it cannot load ends that process, not this one.

Run as a module it is that process: questions as JSON on standard input, answers in the file that they name.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.errors import CheckpointError

PACKAGE = "xllamacpp"
LONGEST = 4096
"""Seconds that one file may take."""


@dataclass(frozen=True)
class Questions:
    """What is asked of a file.

    Attributes:
      prefixes: token ids each; what comes next, over the whole vocabulary.
      texts: to be tokenised, special tokens in them as plain text.
      chats: conversations, to which the file's chat template is applied.
      greedy: token ids each; how they go on.
      new: tokens of such a continuation.
      adapters: GGUF adapters, and how much of each is added.
    """

    prefixes: Sequence[Sequence[int]] = ()
    texts: Sequence[str] = ()
    chats: Sequence[Sequence[Mapping[str, Any]]] = ()
    greedy: Sequence[Sequence[int]] = ()
    new: int = 16
    adapters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What llama.cpp says.

    Attributes:
      log_probs: `[prefixes, V]`.
      ids: of each text.
      prompts: of each conversation, ready for an answer.
      continuations: ids of each.
    """

    log_probs: np.ndarray
    ids: list[list[int]]
    prompts: list[str]
    continuations: list[list[int]]


def version() -> str | None:
    """Of xllamacpp; None when it is not installed."""
    return importlib.metadata.version(PACKAGE) if importlib.util.find_spec(PACKAGE) else None


def ask(file: Path, vocabulary: int, questions: Questions) -> Answers:
    """Load a file in llama.cpp, with a float32 cache and without flash attention, and put questions to it.

    Args:
      vocabulary: V.

    Raises:
      CheckpointError: llama.cpp cannot load or run it; with the end of what it says.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npz"
        request = json.dumps(
            {"file": str(file), "vocabulary": vocabulary, "answers": str(answers), **vars(questions)}, default=list
        )
        said = _run(request, file)
        if not answers.is_file():
            raise CheckpointError(f"{file}: llama.cpp does not run it ({said})")
        with np.load(answers) as found:
            text = json.loads(str(found["text"]))
            return Answers(found["log_probs"], text["ids"], text["prompts"], text["continuations"])


def _run(request: str, file: Path) -> str:
    """Start the process and wait for it; how it ended, with the end of what it said."""
    command = [sys.executable, "-m", "jaxpo.convert.gguf.llama"]
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=LONGEST, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{file}: llama.cpp did not answer within {LONGEST} seconds; use --no-verify.") from error
    return f"status {done.returncode}: {' '.join(done.stderr.split())[-600:]}"


def serve(request: Mapping[str, Any]) -> None:
    """Answer one request; in the process that `ask` starts."""
    server = _server(request)
    size = request["vocabulary"]
    rows = [_next(server, ids, size) for ids in request["prefixes"]]
    text = {
        "ids": [
            _post(server, "tokenize", content=t, add_special=False, parse_special=False)["tokens"]
            for t in request["texts"]
        ],
        "prompts": [_post(server, "apply-template", messages=chat)["prompt"] for chat in request["chats"]],
        "continuations": [_continued(server, ids, request["new"], size) for ids in request["greedy"]],
    }
    log_probs = np.stack(rows) if rows else np.zeros((0, size), np.float32)
    np.savez(request["answers"], log_probs=log_probs, text=json.dumps(text))


def _server(request: Mapping[str, Any]) -> Any:
    import xllamacpp

    settings: Any = xllamacpp.CommonParams()
    settings.model.path = request["file"]
    longest = max([len(ids) for ids in (*request["prefixes"], *request["greedy"])], default=0)
    settings.n_parallel, settings.n_ctx = 1, 64 + longest + request["new"]
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 2
    settings.cache_ram_mib, settings.verbosity, settings.warmup = 0, 0, False
    adapters = []
    for path, scale in request["adapters"].items():
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, scale
        adapters.append(adapter)
    settings.lora_adapters = adapters
    return xllamacpp.Server(settings)


def _next(server: Any, ids: list[int], vocabulary: int, *, cached: bool = False) -> np.ndarray:
    """Log-probs `[V]` of what follows; `cached` continues from what the last call left."""
    # What is drawn does not matter, but of a token that is half a character nothing is told.
    drawn = _post(server, "tokenize", content="a", add_special=False)["tokens"][0]
    asked = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "samplers": [], "logit_bias": [[drawn, 1000.0]]}
    found = server.handle_completions(asked | {"cache_prompt": cached})
    row = np.full(vocabulary, np.nan, np.float32)
    for entry in found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        row[entry["id"]] = entry["logprob"]
    return row


def _continued(server: Any, ids: list[int], new: int, vocabulary: int) -> list[int]:
    """The most probable ids, one after another, each step on the cache of those before it."""
    found: list[int] = []
    for _ in range(new):
        found.append(int(np.argmax(_next(server, ids + found, vocabulary, cached=True))))
    return found


def _post(server: Any, path: str, **body: Any) -> Any:
    url = f"{server.listening_address}/{path}"
    data = json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    serve(json.load(sys.stdin))
