"""Mentalese: traces of reasoning as a few operators on expressions, without prose (ORION, arXiv:2511.22891).

    trace  = step (";" step)*
    step   = "SET:" name "=" number            a quantity that later steps name
           | "EQ:" expression "=" expression   an equation, which may hold an unknown
           | "CALC:" expression "=" number     a calculation
           | "SOLVE:" name "=" number          the unknown of the equations before it
           | "CASE:" expression ("<" | ">" | "=") expression    what holds in the case that follows
           | "ANS:" expression                 the answer, where it is no step's last number

Expressions have whole numbers, one-letter names, + - * / and parentheses. The answer follows on a line of its own,
`#### 12`, as everywhere. Imports the standard library only.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from jaxpo.errors import DataError

MARK = "####"
SIGNS = {"SET": "=", "EQ": "=", "CALC": "=", "SOLVE": "=", "CASE": "<>=", "ANS": ""}
"""Operator -> the signs that may stand between its two sides; none: it has one."""
_ALLOWED = re.compile(r"[0-9a-z+\-*/() ]+")
_OPERATIONS: dict[type[ast.AST], Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_HOLDS: dict[str, Callable[[Fraction, Fraction], bool]] = {"<": operator.lt, ">": operator.gt, "=": operator.eq}


@dataclass(frozen=True)
class Step:
    """One step: `OP:left sign right`, or `OP:left` of an answer."""

    op: str
    left: str
    sign: str = ""
    right: str = ""

    def __str__(self) -> str:
        return f"{self.op}:{self.left}{self.sign}{self.right}"


def parse(text: str) -> list[Step]:
    """The steps of a trace.

    Raises:
      DataError: names the first step that is none, and why.
    """
    return [_step(part, number) for number, part in enumerate(text.split(";"), start=1)]


def _step(text: str, number: int) -> Step:
    op, colon, args = text.strip().partition(":")
    if op not in SIGNS or not colon:
        raise DataError(f"step {number} of a trace, {text!r}, begins with none of {', '.join(SIGNS)}.")
    parts = re.split(f"([{SIGNS[op]}])", args) if SIGNS[op] else [args]
    if len(parts) != (3 if SIGNS[op] else 1):
        raise DataError(
            f"step {number} of a trace, {text!r}: {op} has two sides and one of {SIGNS[op] or 'no'} between."
        )
    sides = [part.replace(" ", "") for part in parts]
    if op in ("SET", "SOLVE") and not re.fullmatch("[a-z]", sides[0]):
        raise DataError(f"step {number} of a trace, {text!r}: {op} gives a number to a name of one letter.")
    for side in sides[::2]:
        value(side, dict.fromkeys("abcdefghijklmnopqrstuvwxyz", Fraction(1)), f"step {number} of a trace, {text!r}")
    return Step(op, *sides)


def value(expression: str, known: Mapping[str, Fraction], where: str = "an expression") -> Fraction:
    """The number that an expression stands for.

    Raises:
      DataError: it is none, names what is not known, or divides by zero.
    """
    if not _ALLOWED.fullmatch(expression):
        raise DataError(f"{where}: {expression!r} has more than numbers, one-letter names, + - * / and parentheses.")
    try:
        return _number(ast.parse(expression, mode="eval").body, known)
    except (SyntaxError, ValueError, RecursionError):
        raise DataError(f"{where}: {expression!r} is no expression.") from None
    except KeyError as error:
        raise DataError(f"{where}: {error.args[0]!r} is not known.") from None
    except ZeroDivisionError:
        raise DataError(f"{where}: {expression!r} divides by zero.") from None


def _number(node: ast.AST, known: Mapping[str, Fraction]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_number(node.operand, known))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_number(node.left, known), _number(node.right, known))
    raise ValueError


def concluded(steps: Iterable[Step]) -> Fraction:
    """What a trace comes to, every step checked by what those before it say.

    Raises:
      DataError: a calculation or a condition that does not hold, a solution that its equations do not have, a quantity
        that is not known, or a trace that comes to nothing.
    """
    known: dict[str, Fraction] = {}
    equations: list[Step] = []
    last: Fraction | None = None
    for number, step in enumerate(steps, start=1):
        where = f"step {number} of a trace, {str(step)!r}"
        if step.op == "EQ":
            equations.append(step)
            continue
        if step.op in ("SET", "SOLVE"):
            known[step.left] = value(step.right, known, where)
        for held in equations if step.op == "SOLVE" else [step] if step.op in ("CALC", "CASE") else []:
            if not _HOLDS[held.sign](value(held.left, known, where), value(held.right, known, where)):
                raise DataError(f"{where}: {held.left} {held.sign} {held.right} does not hold.")
        if step.op == "SOLVE":
            equations = []
        if step.op != "CASE":
            last = value(step.right or step.left, known, where)
    if last is None:
        raise DataError("a trace without a step that has a number comes to no answer.")
    return last


def trace_of(text: str) -> str:
    """The trace of a completion: what stands before its answer."""
    return text.partition(f"\n{MARK}")[0]
