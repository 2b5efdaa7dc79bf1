"""A PEFT adapter folder, read as the model that it makes of its base: `W + scale B A` at every adapted projection."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpo.convert.config_json import CONFIG, read_json
from jaxpo.convert.shards import INDEX, SINGLE, Stored, open_file
from jaxpo.errors import CheckpointError
from jaxpo.models.document import Document, shown
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.lowrank import PEFT_PREFIX
from jaxpo.models.spec import leaves

ADAPTER_CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_READ = (
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("bias", "fan_in_fan_out", "init_lora_weights"),
)
# Where adapters came from, which modules have one (the tensors say that), and settings of variants that are off.
_WITHOUT_EFFECT = (
    *("auto_mapping", "inference_mode", "peft_version", "revision", "task_type", "lora_dropout", "runtime_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
)
# These leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take something out of it first.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
# A regular expression could take for ever: these few characters of them cannot, and are all that adapters use.
_LONGEST_KEY, _CHOICES, _REPEATS = 500, re.compile(r"[|?*+{]"), re.compile(r"[*+{]")
_PAIR = re.compile(rf"{re.escape(PEFT_PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's files.

    Attributes:
      pairs: module -> (A [r, in], B [out, r], scale).
    """

    folder: Path
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray, float]]


def is_adapter(path: Path) -> bool:
    """Whether a folder is an adapter that PEFT saved."""
    return (path / ADAPTER_CONFIG).is_file()


def merge_command(folder: Path) -> str:
    """What makes a whole checkpoint of an adapter that is not read here."""
    task = read_json(folder / ADAPTER_CONFIG).get("task_type")
    kind = "SequenceClassification" if task == "SEQ_CLS" else "CausalLM"
    merged = folder.with_name(f"{folder.name}-merged")
    return (
        f'python -c "from peft import AutoPeftModelFor{kind} as M; '
        f"M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{merged}')\""
    )


def base_of(folder: Path) -> Path:
    """The local folder of the base that an adapter names: as PEFT finds it, or beside the adapter.

    Raises:
      CheckpointError: there is none or more than one, with what to do.
    """
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is {shown(name)}; write the folder of the model that "
            "the adapter was trained on there."
        )
    places = {Path(name), folder / name, folder.resolve().parent / name}
    if len(Path(name).parts) == 2 and not Path(name).is_absolute():  # OWNER/NAME on the Hub
        places.add(folder.resolve().parent / Path(name).name)
    found = sorted({place.resolve() for place in places if os.path.isfile(place / CONFIG)} - {folder.resolve()})
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: is an adapter of {shown(name)}, and there are {' and '.join(map(str, found))}; write "
            f"the path of the one that is meant as base_model_name_or_path in {ADAPTER_CONFIG}."
        )
    if not found:
        raise CheckpointError(
            f"{folder}: is a PEFT adapter of {shown(name)}, which is no folder here. Put the base (a Hugging Face "
            f"checkpoint) beside the adapter or write its path as base_model_name_or_path in {ADAPTER_CONFIG}; or "
            f"merge the two where the base is: {merge_command(folder)}"
        )
    return found[0]


def read_adapter(folder: Path) -> Adapter:
    """Read settings and tensors.

    Raises:
      CheckpointError: a variant that is more than `W + scale B A`, with the command that merges it; or broken files.
    """
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: holds a whole model and an adapter; move one of them away.")
    read = Document(read_json(folder / ADAPTER_CONFIG))
    _check_variant(folder, read)
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: has {ADAPTER_CONFIG} and no {WEIGHTS} (files of other kinds are pickles, and never read); "
            "save it again with save_pretrained(..., safe_serialization=True)."
        )
    scale_of = _scales(read)
    with open_file(file) as stored:
        halves = _halves(folder, stored)
        scales = {module: scale_of(module, pair["A"].shape[0]) for module, pair in halves.items()}
        read.check(folder / ADAPTER_CONFIG)
        return Adapter(folder, {m: (pair["A"].read(), pair["B"].read(), scales[m]) for m, pair in halves.items()})


def _halves(folder: Path, stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Module -> {"A": ..., "B": ...}; every tensor must be half of a pair of matrices."""
    halves: dict[str, dict[str, Stored]] = {}
    foreign = []
    for name, tensor in stored.items():
        match = _PAIR.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            foreign.append(name)
        else:
            halves.setdefault(match["module"], {})[match["side"]] = tensor
    foreign += [f"half of {module}" for module, pair in halves.items() if len(pair) < 2]
    if foreign or not halves:
        what = f"holds {', '.join(foreign[:3])}, which is no low-rank pair" if foreign else "holds no tensors"
        raise CheckpointError(_refused(folder, f"{WEIGHTS} {what}"))
    return halves


def adapted(stored: Mapping[str, Stored], config: TextConfig, adapter: Adapter) -> dict[str, Stored]:
    """The tensors of the base with the adapter added, in float32, each when it is read.

    Raises:
      CheckpointError: a module that the base has not, or has in another shape.
    """
    homes = {p.module: p.hf for _, p in leaves(param_table(config)) if isinstance(p.hf, str) and p.module is not None}
    tensors, problems = dict(stored), []
    for module, (a, b, scale) in adapter.pairs.items():
        base = tensors.get(homes.get(module, ""))
        if base is None:
            problems.append(f"adapts {module}, which its base has not")
        elif (shape := (b.shape[0], a.shape[1])) != base.shape or a.shape[0] != b.shape[1]:
            problems.append(f"{module}: a pair {list(b.shape)} x {list(a.shape)} does not fit {list(base.shape)}")
        else:
            tensors[homes[module]] = Stored(shape, "F32", _sum(base.read, a, b, scale))
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{adapter.folder}: {'; '.join(problems[:3])}{more}; is its base another model?")
    return tensors


def _sum(read: Callable[[], np.ndarray], a: np.ndarray, b: np.ndarray, scale: float) -> Callable[[], np.ndarray]:
    def whole() -> np.ndarray:
        low, up = a.astype(np.float32), b.astype(np.float32)
        return read().astype(np.float32) + np.float32(scale) * (up @ low)

    return whole


def _check_variant(folder: Path, read: Document) -> None:
    """Everything that is set must be understood: each release of PEFT brings further variants."""
    if found := variants(read):
        raise CheckpointError(_refused(folder, ", ".join(found)))


def variants(read: Document) -> list[str]:
    """What an adapter's configuration says of it beside pairs of matrices that are added to projections."""
    further = {key: value for key, value in read.values.items() if key not in (*_READ, *_WITHOUT_EFFECT)}
    found = [f"{key} = {shown(value)}" for key, value in further.items() if value not in (None, False, "", [], {})]
    for key, good in (("peft_type", "LORA"), ("bias", "none"), ("fan_in_fan_out", False)):
        if (value := read.values.get(key, good)) != good:
            found.append(f"{key} = {shown(value)}")
    if (init := read.values.get("init_lora_weights")) not in _HARMLESS_INITS:
        found.append(f"init_lora_weights = {shown(init)}, which changes the base")
    return found


def _refused(folder: Path, what: str) -> str:
    return (
        f"{folder}: is a PEFT adapter that is more than pairs of matrices added to projections ({what}). "
        f"Merge it with PEFT and give the result: {merge_command(folder)}"
    )


def _scales(read: Document) -> Callable[[str, int], float]:
    """`(module, rank in the file) -> scale`, by the patterns that PEFT applies to names of modules."""
    rank, alpha = read.integer("r", 8), read.number("lora_alpha", 8.0)
    stabilised = read.flag("use_rslora", False)
    ranks, alphas = read.part("rank_pattern"), read.part("alpha_pattern")

    def scale(module: str, found: int) -> float:
        if (meant := ranks.integer(_key(ranks, module), rank)) != found:
            read.problems.append(f"the rank of {module} is {meant} and its matrices have {found}")
        return float(alphas.number(_key(alphas, module), alpha) / (found**0.5 if stabilised else max(found, 1)))

    return scale


def _key(patterns: Document, module: str) -> str:
    """The first key that ends the module's name, as a regular expression; none of them: a name that no key has."""
    for key, value in patterns.values.items():
        try:
            if _is_simple(key) and re.match(rf"(.*\.)?({key})$", module):
                return key
        except (re.error, RecursionError, OverflowError):
            patterns.wrong(key, value, "under a regular expression", None)
            continue
        if not _is_simple(key):
            patterns.wrong(shown(key), value, "under a name, or a simple regular expression", None)
    return ""


def _is_simple(key: str) -> bool:
    """Whether matching a regular expression ends soon whatever the name: few choices, and no group is repeated."""
    unrepeated = re.search(r"\)[*+{]", key) is None and "(?" not in key.replace("(?:", "")
    few = len(_CHOICES.findall(key)) <= 8 and len(_REPEATS.findall(key)) <= 2
    return len(key) <= _LONGEST_KEY and few and unrepeated


def describe(folder: Path) -> str:
    """A line for the user: which adapter is added to which base."""
    pairs = read_adapter(folder).pairs
    ranks = ", ".join(map(str, sorted({a.shape[0] for a, _, _ in pairs.values()})))
    return f"{folder}: a PEFT adapter of rank {ranks} on {len(pairs)} projections, added to {base_of(folder)}"
