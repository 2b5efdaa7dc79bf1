"""From mergekit's YAML and the models' leaves to a plan: slices, gradients over layers, filters by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxpo.errors import ConfigError
from jaxpo.merge.mergekit.settings import PARAMETERS, REQUIRED, first_value, make_method
from jaxpo.merge.mergekit.yaml import Document, Slice, Source
from jaxpo.merge.plan import LeafPlan, Plan, describe_plan

LAYER = re.compile(r"^(.*\blayers\.)(\d+)(\..+)$")
# In these methods mergekit counts a base model as one of the inputs, or needs none.
WITHOUT_BASE = ("linear", "karcher", "passthrough")


@dataclass(frozen=True)
class _Leaf:
    """A leaf to make: its name, what it is called in each source, and how far in the slice it lies."""

    name: str
    sources: tuple[str, ...]
    t: float


def plan_document(document: Document, names: Mapping[str, Sequence[str]], seed: int = 0) -> Plan:
    """Plan every leaf of the result.

    What belongs to no layer comes from the first slice (embedding) or the last (final norm), at the beginning of a
    gradient. mergekit takes LFM2's final norm from the first slice: it lies before the layers in the file, under the
    name `embedding_norm`.

    Args:
      names: model -> names of its leaves, in order.

    Raises:
      ConfigError: layer ranges that a model has not, parameters that are missing or out of range, a base that the
        method needs or has not; all together.
    """
    problems = list(_range_problems(document, names))
    if problems:
        raise ConfigError([f"{document.file}: {p}" for p in problems])
    slices = [_complete(part, names) for part in document.slices]
    found: list[LeafPlan] = []
    for part, leaf in _leaves(slices, names):
        try:
            found.append(_plan_leaf(document, part, leaf))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError([f"{document.file}: {p}" for p in dict.fromkeys(problems)])
    whole = all(source.layers is None for part in document.slices for source in part.sources)
    layers = tuple((s.sources[0].model, i) for s in slices for i in range(*_span(s.sources[0])))
    plan = Plan(tuple(found), None if whole else layers, document.dtype, seed)
    return replace(plan, lines=tuple(describe_plan(plan)))


def _range_problems(document: Document, names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for i, part in enumerate(document.slices):
        for j, source in enumerate(part.sources):
            count = layer_count(names[source.model])
            if source.layers is not None and source.layers[1] > count:
                place = f"slices[{i}].sources[{j}].layer_range"
                yield f"{place}: ends at {source.layers[1]}, but {source.model} has {count} layers."


def layer_count(names: Sequence[str]) -> int:
    """Number of layers that leaf names speak of."""
    return 1 + max((int(match[2]) for match in map(LAYER.match, names) if match), default=-1)


def _complete(part: Slice, names: Mapping[str, Sequence[str]]) -> Slice:
    """The base as a source, where it is not one already, and the whole of a model where no range is given."""
    listed = [s.model for s in part.sources]
    sources = list(part.sources)
    if part.base is not None and part.base not in listed and part.sources[0].layers is None:
        sources.append(Source(part.base, None, {}))
    return Slice(
        tuple(Source(s.model, s.layers or (0, layer_count(names[s.model])), s.parameters) for s in sources),
        part.base,
        part.parameters,
    )


def _span(source: Source) -> tuple[int, int]:
    assert source.layers is not None
    return source.layers


def _leaves(slices: Sequence[Slice], names: Mapping[str, Sequence[str]]) -> Iterator[tuple[Slice, _Leaf]]:
    """Every leaf of the result in a model's order: embedding, layers of all slices, final norm."""
    first, last = slices[0], slices[-1]
    outside = [n for n in names[first.sources[0].model] if not LAYER.match(n)]
    before = [n for n in outside if "embed_tokens" in n]
    for name in before:
        yield first, _Leaf(name, (name,) * len(first.sources), 0.0)
    made = 0
    for part in slices:
        begin, end = _span(part.sources[0])
        for offset in range(end - begin):
            t = offset / (end - begin - 1) if end - begin > 1 else 1.0
            origin = part.sources[0]
            for name in names[origin.model]:
                match = LAYER.match(name)
                if match and int(match[2]) == begin + offset:
                    there = tuple(f"{match[1]}{_span(s)[0] + offset}{match[3]}" for s in part.sources)
                    yield part, _Leaf(f"{match[1]}{made}{match[3]}", there, t)
            made += 1
    for name in outside:
        if name not in before:
            yield last, _Leaf(name, (name,) * len(last.sources), 0.0)


def _plan_leaf(document: Document, part: Slice, leaf: _Leaf) -> LeafPlan:
    name, base = document.method, part.base
    parts = [(source.model, inside) for source, inside in zip(part.sources, leaf.sources, strict=True)]
    origin = next((p for p in parts if p[0] == base), None)
    if base is not None and origin is None:
        raise ConfigError(f"base_model: {base} is not among the sources of the slice; list it there.")
    if name in WITHOUT_BASE:
        listed = [s.model for s in document.slices[0].sources]
        if base is not None and base not in listed:
            raise ConfigError(f"base_model: {name} has none; leave it out, or list {base} among the models.")
        origin = None
    # By position: a model may be listed twice, each time with parameters of its own. The base counts as the base alone.
    apart = [(p, source.parameters) for p, source in zip(parts, part.sources, strict=True) if p != origin]
    others = [p for p, _ in apart]
    values: dict[str, object] = {}
    weights: list[float] | None = None
    scopes = (part.parameters, document.parameters)
    for key, parameter in PARAMETERS[name].items():
        if parameter.each:
            each = [first_value((own, *scopes), key, parameter, p[1], leaf.t) for p, own in apart]
            missing = [p[0] for p, value in zip(others, each, strict=True) if value is REQUIRED]
            if missing:
                raise ConfigError(f"parameters.{key}: is missing for {', '.join(missing)}; {name} needs one per model.")
            values[key] = tuple(each)
            weights = list(values[key]) if key == "weight" else weights  # type: ignore[call-overload]
        else:
            values[key] = first_value(scopes, key, parameter, leaf.name, leaf.t)
            if values[key] is REQUIRED:
                raise ConfigError(f"parameters.{key}: is missing; {name} needs it.")
    if name == "slerp":
        if origin is None:
            raise ConfigError("base_model: slerp starts from it; name one of the two models.")
        others, origin = [origin, *others], None
    if name == "passthrough" and len(others) != 1:
        raise ConfigError(f"sources: passthrough takes one model per slice, got {len(others)}.")
    method = make_method(name, values)
    problems = list(method.problems(len(others), origin is not None))
    if problems:
        raise ConfigError(problems)
    return LeafPlan(leaf.name, method, tuple(others), method.effective(weights, len(others)), origin)
