"""Word problems with a calculator at hand."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from jaxpo.evaluate.final_answer import final_answer, grade
from jaxpo.online.environments.base import EnvironmentOf, Tool, ToolConversation, describe

LONGEST = 200
LARGEST = 10**30
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@dataclass(frozen=True)
class Calculator(EnvironmentOf):
    """The tool `calculate(expression)`; the reward is 1 where the final answer is the row's `answer`, else 0."""

    NAME: ClassVar[str] = "calculator"

    def open(self) -> Calculating:
        return Calculating()

    def tools(self) -> tuple[Any, ...]:
        return (describe("calculate", "The value of an expression of + - * / and brackets.", expression="string"),)

    def check(self, row: Mapping[str, Any]) -> str | None:
        has = final_answer(str(row.get("answer", ""))) is not None
        return None if has else "column 'answer' holds no number, which the answer is compared with."


class Calculating(ToolConversation):
    """One problem."""

    def tool_functions(self) -> Mapping[str, Tool]:
        return {"calculate": lambda expression: calculate(str(expression))}

    def score(self, answer: str) -> float:
        return float(grade(answer, str(self.row["answer"])))


def calculate(expression: str) -> str:
    """The exact value of an expression of numbers, + - * / and brackets.

    Raises:
      ValueError: it is something else, too long, or too large. ZeroDivisionError.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters, and {LONGEST} are read")
    try:
        found = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError) as error:
        raise ValueError("this is no expression of numbers, + - * / and brackets") from error
    if found.denominator == 1:
        return str(found.numerator)
    return f"{float(found):.10g}"


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        found = Fraction(str(node.value))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        found = left / right if isinstance(node.op, ast.Div) else _OPERATORS[type(node.op)](left, right)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        found = _OPERATORS[type(node.op)](_value(node.operand))
    else:
        raise ValueError("this is no expression of numbers, + - * / and brackets")
    if abs(found) > LARGEST:
        raise ValueError("the value is too large")
    return found
