"""Adapters as GGUF files, for llama.cpp's `--lora`.

llama.cpp adds `adapter.lora.alpha / r * B A` to a matrix, times the scale of the command line; r is the rows of A.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import LoRA
from jaxpo.convert.card import facts_of, write_card
from jaxpo.convert.config_json import export_of, write_json
from jaxpo.convert.formats import GGUF, Row, nats
from jaxpo.convert.gguf import llama
from jaxpo.convert.gguf.header import read_header
from jaxpo.convert.gguf.hyperparameters import architecture, inexpressible
from jaxpo.convert.gguf.kinds import KINDS
from jaxpo.convert.gguf.library import gguf
from jaxpo.convert.gguf.names import gguf_name, hf_names
from jaxpo.convert.gguf.read import read_values
from jaxpo.convert.gguf.verify import POSITIONS, checked
from jaxpo.convert.gguf.write import Planned, write_gguf, write_tensors
from jaxpo.convert.hf import folder_in_making, tensors_of
from jaxpo.convert.verify import LENGTH, compare, log_probs, log_softmax
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import param_table
from jaxpo.models.lowrank import PEFT_PREFIX, adapter_table, scale_of

Tree = Any
TYPES = ("f32", "f16", "bf16")
"""Of an adapter's matrices; llama.cpp reads no quantised ones."""


def export_adapter(found: Any, out: Path, *, dtype: str = "f32", overwrite: bool = False, verify: bool = True) -> Row:
    """Write `OUT/NAME-lora-TYPE.gguf` and compare base and adapter together with the stage's merged model.

    Args:
      found: a stage's adapter with its two models, a `jaxpo.stages.adapter.LoadedAdapter`.

    Raises:
      ConfigError: what the format cannot say.
      CheckpointError: base and adapter compute something else than the merged model.
    """
    config, base = found.base.config, found.base
    problems = inexpressible(config)
    if dtype not in TYPES:
        problems.append(f"--dtype {dtype} is none of an adapter's: {', '.join(TYPES)}")
    if problems:
        raise ConfigError([f"export --format gguf --adapter: {problem}." for problem in problems])
    with folder_in_making(out, overwrite=overwrite) as partial:
        file = partial / f"{out.name}-lora-{dtype.upper()}.gguf"
        write_adapter(file, found.params, found.lora, config, dtype, name=out.name)
        report: dict[str, Any] = {}
        if verify:
            merged = found.result.params["model"]
            report = verify_adapter(file, base.params["model"], merged, config, base.tokenizer, dtype, partial)
            write_json(partial / "verification.json", report)
        use = (f"With llama.cpp, on a GGUF file of its base: `llama-cli -m BASE.gguf --lora {file.name}`.",)
        write_card(partial, facts_of(found.result.path, found.result.about), config, use, library="gguf")
        return Row(GGUF, file.name, file.stat().st_size, report.get("by", ""), nats(report) if report else "")


def write_adapter(file: Path, adapter: Tree, lora: LoRA, config: Any, dtype: str = "f32", *, name: str = "") -> None:
    """Write the pairs of an adapter; `lora_a` is [r, in], `lora_b` [out, r], as PEFT has them."""
    library = gguf()
    planned = []
    for source in tensors_of(adapter, adapter_table(param_table(config), lora)):
        module, _, side = source.name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        named = f"{gguf_name(f'{module}.weight')}.{side.lower()}"
        planned.append(Planned(named, source.shape, KINDS[dtype].matrix, [source]))
    writer = library.GGUFWriter(file, architecture(config))
    try:
        writer.add_type("adapter")
        if name:
            writer.add_name(name)
        writer.add_string("adapter.type", "lora")
        # One number for all: alpha / r is the scale, with rank-stabilised scaling as well.
        writer.add_float32("adapter.lora.alpha", scale_of(lora) * lora.rank)
        write_tensors(writer, planned)
    finally:
        writer.close()


def read_adapter(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Checkpoint's name of a matrix -> (A [r, in], B [out, r], scale), as llama.cpp takes them.

    Raises:
      CheckpointError: no adapter, or half of a pair.
    """
    header = read_header(file)
    if header.metadata.get("general.type") != "adapter" or header.metadata.get("adapter.type") != "lora":
        raise CheckpointError(f"{file}: is no LoRA adapter.")
    alpha = header.metadata.get("adapter.lora.alpha")
    if type(alpha) is not float:
        raise CheckpointError(f"{file}: has no adapter.lora.alpha.")
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, info in header.tensors.items():
        of, _, side = name.rpartition(".lora_")
        if side not in ("a", "b") or len(info.shape) != 2:
            raise CheckpointError(f"{file}: holds {name[:80]!r}, which is no half of a low-rank pair.")
        halves.setdefault(hf_names(of, 0)[0], {})[side] = read_values(file, info, info.shape)
    if lacking := [name for name, pair in halves.items() if len(pair) < 2]:
        raise CheckpointError(f"{file}: holds half of the pair of {lacking[0]}.")
    return {name: (pair["a"], pair["b"], alpha / pair["a"].shape[0]) for name, pair in halves.items()}


def verify_adapter(
    file: Path, base: Tree, merged: Tree, config: Any, tokenizer: Any, dtype: str, folder: Path
) -> dict[str, Any]:
    """Base and adapter against the merged model: in llama.cpp where it is, with the base's tokenizer, else in numpy."""
    sources = tensors_of(base, param_table(config))
    pairs = read_adapter(file)
    values: Mapping[str, Any] = {source.name: source.load for source in sources}

    def tensor(name: str) -> np.ndarray:
        value = np.asarray(values[name](), np.float64)
        if name not in pairs:
            return value
        a, b, scale = pairs[name]
        return value + scale * (b.astype(np.float64) @ a.astype(np.float64))

    tokens = np.random.default_rng(0).integers(0, config.vocab_size, LENGTH)
    exact = log_probs(merged, config, tokens, None)
    reference = log_softmax(export_of(config).logits(tensor, config, tokens))
    report: dict[str, Any] = {"dtype": dtype, **compare(exact, reference), "by": "float64 numpy"}
    version = llama.version()
    if version is not None and tokenizer is not None:
        whole = folder / "base.gguf"
        write_gguf(whole, sources, config, tokenizer)
        questions = llama.Questions(
            prefixes=[tokens[:length].tolist() for length in POSITIONS], adapters={str(file): 1.0}
        )
        theirs = llama.ask(whole, config.vocab_size, questions).log_probs.astype(np.float64)
        whole.unlink()
        report |= compare(exact[[length - 1 for length in POSITIONS]], theirs)
        report["by"] = f"llama.cpp ({llama.PACKAGE} {version})"
    kind = KINDS[dtype]
    return checked(file, report, kind.nats, kind.divergence)
