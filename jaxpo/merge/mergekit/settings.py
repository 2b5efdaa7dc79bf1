"""mergekit's parameters: which method has which, and the value that one has at one leaf."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.errors import ConfigError
from jaxpo.merge.base import Method
from jaxpo.merge.methods import resolve

REQUIRED = object()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method in mergekit's YAML.

    Attributes:
      kind: float, int or bool.
      each: one value per model; otherwise one for all of them.
      default: mergekit's; REQUIRED when it has none.
      field: of our method; None when it sets the weights, or changes nothing that is computed.
    """

    kind: type
    default: Any
    field: str | None = None
    each: bool = False


_WEIGHT = {"weight": Parameter(float, REQUIRED, each=True)}
# Masks of 8 bits save mergekit memory; here a mask is a bool and lives as long as one leaf.
_INT8 = {"int8_mask": Parameter(bool, False)}


def _on_base(normalize: bool, **more: Parameter) -> dict[str, Parameter]:
    shared = {"normalize": Parameter(bool, normalize, "normalize"), "lambda": Parameter(float, 1.0, "scale")}
    return _WEIGHT | shared | _INT8 | more


def _sparse(normalize: bool, rescale: bool, **more: Parameter) -> dict[str, Parameter]:
    density = Parameter(float, 1.0, "density", each=True)
    return _on_base(normalize, density=density, rescale=Parameter(bool, rescale, "rescale"), **more)


_GAMMA = Parameter(float, 0.01, "gamma", each=True)
_EPSILON = Parameter(float, 0.15, "epsilon", each=True)

PARAMETERS: dict[str, dict[str, Parameter]] = {
    "linear": _WEIGHT | {"normalize": Parameter(bool, True, "normalize")},
    "slerp": {"t": Parameter(float, REQUIRED, "t")},
    "nuslerp": _WEIGHT
    | {
        "nuslerp_flatten": Parameter(bool, True, "flatten"),
        "nuslerp_row_wise": Parameter(bool, False, "row_wise"),
    },
    "task_arithmetic": _on_base(False),
    "ties": _sparse(True, False),
    "dare_linear": _sparse(False, True),
    "dare_ties": _sparse(False, True),
    "della_linear": _sparse(False, True, epsilon=_EPSILON),
    "della": _sparse(True, True, epsilon=_EPSILON),
    "breadcrumbs": _sparse(False, False, gamma=_GAMMA),
    "breadcrumbs_ties": _sparse(False, False, gamma=_GAMMA),
    "model_stock": {"filter_wise": Parameter(bool, False, "filter_wise")},
    "karcher": {"max_iter": Parameter(int, 10, "max_iter"), "tol": Parameter(float, 1e-5, "tol")},
    "sce": {"select_topk": Parameter(float, 1.0, "select_topk")} | _INT8,
    "passthrough": {"scale": Parameter(float, 1.0, "scale", each=True)},
}
"""mergekit's methods that are implemented, with their parameters."""


def make_method(name: str, values: Mapping[str, Any]) -> Method:
    """Our method with mergekit's settings in our units: `rescale: true` keeps the length (l1), epsilon is doubled."""
    fields: dict[str, Any] = {}
    for key, value in values.items():
        field = PARAMETERS[name][key].field
        if field == "rescale":
            fields[field] = "l1" if value else "none"
        elif field == "epsilon":
            fields[field] = tuple(2 * v for v in value)
        elif field == "scale" and name == "passthrough":
            (fields[field],) = value
        elif field is not None:
            fields[field] = value
    return resolve(name)(**fields)


def value_at(setting: Any, kind: type, leaf: str, t: float) -> Any:
    """What a setting is at one leaf: a number, a gradient over layers, or the first filter that the name contains.

    Args:
      t: position of the layer in its slice, 0 to 1; 0 for what belongs to no layer.

    Returns:
      None when no filter matches: then the next outer setting holds.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return converted(setting, kind)
    if setting and not isinstance(setting[0], Mapping):
        return along(setting, kind, t)
    for condition in setting:
        if condition.get("filter") in (None, "*") or condition["filter"] in leaf:
            return value_at(condition["value"], kind, leaf, t)
    return None


def along(gradient: Sequence[Any], kind: type, t: float) -> Any:
    """Linear interpolation between equally spaced anchors; switches at the anchors for booleans."""
    values = [converted(v, kind) for v in gradient]
    place = t * (len(values) - 1)
    low = int(place)
    if kind is bool:
        return values[low]
    high = min(low + 1, len(values) - 1)
    return kind((1 - (place - low)) * values[low] + (place - low) * values[high])


def converted(value: Any, kind: type) -> Any:
    """A YAML scalar as a parameter's type; ConfigError otherwise. YAML reads 1e-3 as text."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"expected true or false, got {value!r}")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        if kind is int and not number.is_integer():
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"expected {'a whole number' if kind is int else 'a number'}, got {value!r}") from None
    return kind(number)


def setting_problems(setting: Any, kind: type) -> Iterator[str]:
    """What is wrong with a setting, whatever the leaf."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, list) and not setting:
        yield "is an empty list"
    elif isinstance(setting, list) and any(isinstance(s, Mapping) for s in setting):
        for condition in setting:
            keys = set(condition) if isinstance(condition, Mapping) else set()
            named = isinstance(condition, Mapping) and isinstance(condition.get("filter"), str | None)
            if not named or not keys <= {"filter", "value"} or "value" not in keys:
                yield f"expected entries of a filter and a value, got {condition!r}"
            else:
                yield from setting_problems(condition["value"], kind)
    else:
        for value in setting if isinstance(setting, list) else [setting]:
            try:
                converted(value, kind)
            except ConfigError as error:
                yield str(error)


def first_value(scopes: Iterable[Mapping[str, Any]], key: str, parameter: Parameter, leaf: str, t: float) -> Any:
    """The value of the innermost scope that has one for this leaf, else the default."""
    for scope in scopes:
        if key in scope:
            value = value_at(scope[key], parameter.kind, leaf, t)
            if value is not None:
                return value
    return parameter.default
