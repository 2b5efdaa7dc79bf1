"""mergekit's YAML, read strictly: the methods and keys that are implemented, anything else refused by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.merge.mergekit.settings import PARAMETERS, setting_problems

LARGEST, VALUES, DEEPEST = 1 << 20, 1 << 16, 20
"""Bytes of a file; values in it, with those behind anchors as often as they are named; and levels of nesting."""
TOP = ("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype")
MODEL = ("model", "parameters")
SLICE = ("sources", "base_model", "parameters")
SOURCE = ("model", "layer_range", "parameters")
DTYPES = ("float32", "bfloat16")
WHY = {
    "tokenizer_source": "all models must have the same tokenizer, which the result gets",
    "tokenizer": "all models must have the same tokenizer, which the result gets",
    "chat_template": "the result gets the models' own template",
    "modules": "a dense LFM2 is one module; write its models or slices directly",
}


@dataclass(frozen=True)
class Source:
    """A model, or some layers of it, with the parameters that hold for it alone."""

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Layers of the result and what they are merged from; without layer ranges the whole model."""

    sources: tuple[Source, ...]
    base: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """A merge as mergekit describes it.

    Attributes:
      method: mergekit's name.
      dtype: of the files to write; None = the writer's choice. Arithmetic is in float32, whatever it says.
    """

    file: str
    method: str
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Any]
    dtype: str | None

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is read, each once."""
        named = [m for s in self.slices for m in (*(source.model for source in s.sources), s.base)]
        return tuple(dict.fromkeys(m for m in named if m is not None))


def read_document(path: Path) -> Document:
    """Read and check a file.

    Raises:
      ConfigError: not readable, not YAML (with the line), or every key, method and value that is not implemented.
    """
    tree = _load(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with merge_method and models, got {type(tree).__name__}.")
    problems = list(find_problems(tree))
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    base = tree.get("base_model")
    if "slices" in tree:
        slices = tuple(_slice(part, base) for part in tree["slices"])
    else:
        sources = [Source(m["model"], None, m.get("parameters") or {}) for m in tree["models"]]
        slices = (Slice(tuple(sources), base, {}),)
    return Document(
        file=str(path),
        method=tree["merge_method"],
        slices=slices,
        parameters=tree.get("parameters") or {},
        dtype=tree.get("out_dtype") or tree.get("dtype"),
    )


def _load(path: Path) -> Any:
    """The values of a file; ConfigError for what is no YAML, or more than a merge could need."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: has more than {LARGEST:,} bytes, which no merge needs.")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date, endless numbers
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML ({said}).") from error
    level, count = [tree], 0
    for _ in range(DEEPEST):
        count += len(level)
        if count > VALUES or any(isinstance(value, int | float) and not _is_usual(value) for value in level):
            break
        parts = (
            itertools.chain(v, v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        )
        level = list(itertools.islice(itertools.chain.from_iterable(parts), VALUES + 1))
        if not level:
            return tree
    raise ConfigError(
        f"{path}: holds more than {VALUES:,} values, nests them more than {DEEPEST} levels deep, or holds a number "
        "that is not finite or beyond 64 bits; no merge needs that."
    )


def _is_usual(number: int | float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63


def _slice(part: Mapping[str, Any], base: str | None) -> Slice:
    sources = tuple(Source(s["model"], tuple(s["layer_range"]), s.get("parameters") or {}) for s in part["sources"])
    return Slice(sources, part.get("base_model") or base, part.get("parameters") or {})


def find_problems(tree: Mapping[str, Any]) -> Iterator[str]:
    """Everything that cannot be used, each with where it stands."""
    yield from unknown_keys(tree, TOP, "")
    method = tree.get("merge_method")
    if not isinstance(method, str) or method not in PARAMETERS:
        what = "is missing" if method is None else f"{method!r} is not implemented"
        yield f"merge_method: {what}.{hint(method, PARAMETERS)}"
        return
    for key in ("dtype", "out_dtype"):
        if tree.get(key) is not None and tree[key] not in DTYPES:
            yield f"{key}: {tree[key]!r} cannot be written. Known: {', '.join(DTYPES)}."
    yield from parameter_problems(tree, method, "")
    yield from base_problems(tree, "")
    if ("models" in tree) == ("slices" in tree):
        yield "models: give exactly one of models and slices."
        return
    entries = tree["models"] if "models" in tree else tree["slices"]
    name = "models" if "models" in tree else "slices"
    if not isinstance(entries, list) or not entries:
        yield f"{name}: expected a list of at least one entry."
        return
    for i, entry in enumerate(entries):
        check = model_problems if name == "models" else slice_problems
        yield from check(entry, method, f"{name}[{i}]")


def model_problems(entry: Any, method: str, where: str, keys: tuple[str, ...] = MODEL) -> Iterator[str]:
    """One model, or one source of a slice."""
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        yield f"{where}.model: expected the folder of a model."
        return
    yield from unknown_keys(entry, keys, f"{where}.")
    yield from parameter_problems(entry, method, f"{where}.", shared=False)


def base_problems(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    """A base model that is not named by a text."""
    if not isinstance(entry.get("base_model"), str | None):
        yield f"{where}base_model: expected the folder of a model, got {entry['base_model']!r}."


def slice_problems(entry: Any, method: str, where: str) -> Iterator[str]:
    """One slice: sources with layer ranges of equal length."""
    if not isinstance(entry, dict) or not isinstance(entry.get("sources"), list) or not entry["sources"]:
        yield f"{where}.sources: expected a list of at least one source."
        return
    yield from unknown_keys(entry, SLICE, f"{where}.")
    yield from base_problems(entry, f"{where}.")
    yield from parameter_problems(entry, method, f"{where}.")
    lengths = set()
    for i, source in enumerate(entry["sources"]):
        place = f"{where}.sources[{i}]"
        yield from model_problems(source, method, place, SOURCE)
        span = source.get("layer_range") if isinstance(source, dict) else None
        good = isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)
        if not good or not 0 <= span[0] < span[1]:  # type: ignore[index]
            yield f"{place}.layer_range: expected [first, end) with 0 <= first < end, got {span!r}."
        else:
            lengths.add(span[1] - span[0])  # type: ignore[index]
    if len(lengths) > 1:
        yield f"{where}.sources: their layer ranges have different lengths ({', '.join(map(str, sorted(lengths)))})."


def parameter_problems(entry: Mapping[str, Any], method: str, where: str, *, shared: bool = True) -> Iterator[str]:
    """Parameters that the method does not have, or that cannot stand here, and values of another type."""
    parameters = entry.get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        yield f"{where}parameters: expected a mapping, got {parameters!r}."
        return
    known = PARAMETERS[method]
    for key, setting in parameters.items():
        place = f"{where}parameters.{key}"
        if key not in known:
            yield f"{place}: {method} has no such parameter.{hint(key, known)}"
        elif not known[key].each and not shared:
            yield f"{place}: holds for all models together; give it under the top-level parameters."
        else:
            yield from (f"{place}: {p}." for p in setting_problems(setting, known[key].kind))


def unknown_keys(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> Iterator[str]:
    """Keys that are not implemented, with the reason where there is one."""
    for key in entry:
        if key not in known:
            why = f" ({WHY[key]})" if key in WHY else ""
            yield f"{where}{key}: is not implemented{why}.{hint(key, known)}"


def hint(word: Any, known: Iterable[str]) -> str:
    """' Did you mean X? Known: X, Y.'; nearer by a little than elsewhere, so that `base` is `base_model`."""
    return f"{did_you_mean(str(word), known, cutoff=0.55)} Known: {', '.join(known)}."
