"""Arithmetic on numbers, and on nothing else."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.tools.base import Tool, ToolError

LONGEST, LARGEST_EXPONENT, LARGEST = 200, 64, 1e100
_ALLOWED = re.compile(r"[0-9+\-*/%(). ]*")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@dataclass(frozen=True)
class Calculator(Tool):
    """Digits, + - * / // % ** and parentheses; exponents up to 64, results up to 1e100."""

    NAME: ClassVar[str] = "calculator"
    USE: ClassVar[str] = "an arithmetic expression such as (3 + 4) * 5; gives its value."

    def call(self, text: str) -> str:
        expression = text.rstrip("= ").replace("^", "**")
        if len(expression) > LONGEST:
            raise ToolError(f"the expression is longer than {LONGEST} characters")
        if not _ALLOWED.fullmatch(expression):
            raise ToolError("an expression has digits, + - * / % ** and parentheses only")
        try:
            tree = ast.parse(expression, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ToolError("this is no expression") from None
        return written(value(tree.body))


def value(node: ast.AST) -> int | float:
    """The number that a tree of operators on numbers stands for."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return bounded(_OPERATORS[type(node.op)](value(node.operand)))
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        raise ToolError("this is no expression")
    left, right = value(node.left), value(node.right)
    if isinstance(node.op, ast.Pow) and abs(right) > LARGEST_EXPONENT:
        raise ToolError(f"the exponent {right} is larger than {LARGEST_EXPONENT}")
    try:
        return bounded(_OPERATORS[type(node.op)](left, right))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError("the result is too large") from None


def bounded(number: Any) -> int | float:
    """A real number that is not too large."""
    if isinstance(number, complex):
        raise ToolError("the result is no real number")
    if abs(number) > LARGEST:
        raise ToolError("the result is too large")
    real: int | float = number
    return real


def written(number: int | float) -> str:
    """Whole numbers in full, others to ten digits."""
    return str(int(number)) if number == int(number) else f"{number:.10g}"
