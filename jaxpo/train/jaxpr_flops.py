"""Floating-point operations of a traced program: its products, counted where `cost_analysis` does not look.

XLA's own count takes the body of a loop once, and needs a compiled program. This one walks the jaxpr: a program of any
size can be counted from abstract values, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


@dataclass(frozen=True)
class Work:
    """What a program computes.

    Attributes:
      flops: of products and convolutions, a multiply-add counted as two; over all devices.
      unknown: how many loops of unknown length hold products; the body of such a loop is counted once.
    """

    flops: float
    unknown: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.unknown + other.unknown)

    def times(self, n: float) -> Work:
        """This work n times, written once."""
        return Work(n * self.flops, self.unknown)


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Work:
    """Work of `function(*args, **kwargs)`, traced from arrays or `ShapeDtypeStruct`; nothing is computed or compiled.

        product [b, m, k] x [b, k, n]: 2 b m k n;   convolution: 2 * outputs * (kernel entries per output)

    A scan's body counts as often as it runs, of the branches of a condition the most expensive, of a mapped shard what
    all devices do, of a Pallas kernel its body once per grid point. Entrywise operations and reductions count nothing.
    """
    return work_of(jax.make_jaxpr(function)(*args, **kwargs))


def work_of(program: ClosedJaxpr) -> Work:
    """Of a program that has been traced before, as `count_flops` counts it."""
    return _program(program.jaxpr)


def _program(jaxpr: Jaxpr) -> Work:
    return sum((_equation(eqn) for eqn in jaxpr.eqns), Work(0.0))


def _equation(eqn: JaxprEqn) -> Work:
    name = eqn.primitive.name
    if name in PRODUCTS:
        return Work(PRODUCTS[name](eqn))
    return CONTROL.get(name, _called)(eqn)


def _called(eqn: JaxprEqn) -> Work:
    """A program within a program (a jitted, rematerialised or custom-derivative function): it runs once."""
    return sum(map(_program, _inner(eqn)), Work(0.0))


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item.jaxpr if isinstance(item, ClosedJaxpr) else item


def _scan(eqn: JaxprEqn) -> Work:
    return _called(eqn).times(eqn.params["length"])


def _while(eqn: JaxprEqn) -> Work:
    once = _called(eqn)
    return Work(once.flops, once.unknown + (once.flops > 0))


def _cond(eqn: JaxprEqn) -> Work:
    return max(map(_program, _inner(eqn)), key=lambda work: work.flops)


def _shard_map(eqn: JaxprEqn) -> Work:
    mesh = eqn.params["mesh"]
    return _called(eqn).times(math.prod(mesh.shape[axis] for axis in eqn.params["newly_manual_axes"]))


def _pallas(eqn: JaxprEqn) -> Work:
    return _called(eqn).times(math.prod(eqn.params["grid_mapping"].grid))


CONTROL: dict[str, Callable[[JaxprEqn], Work]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "pallas_call": _pallas,
}


def _shapes(eqn: JaxprEqn) -> list[tuple[int, ...]]:
    """Of the result and of the operands."""
    return [getattr(variable.aval, "shape", ()) for variable in (*eqn.outvars, *eqn.invars)]


def _dot_general(eqn: JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    out, left, _ = _shapes(eqn)
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> float:
    (out, _, kernel), spec = _shapes(eqn), eqn.params["dimension_numbers"].rhs_spec
    per_output = math.prod(kernel) / kernel[spec[0]]  # rhs_spec: output features, input features of a group, space
    return 2.0 * math.prod(out) * per_output / eqn.params["batch_group_count"]


def _ragged_dot(eqn: JaxprEqn) -> float:
    """Every row meets the matrix of its own group: [m, k] x [g, k, n] -> [m, n], or [k, m] x [k, n] -> [g, m, n]."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    out, left, _, sizes = _shapes(eqn)
    ragged = set(numbers.lhs_ragged_dimensions) & set(contracted)
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted) / (sizes[-1] if ragged else 1)


PRODUCTS: dict[str, Callable[[JaxprEqn], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "ragged_dot_general": _ragged_dot,
}
