"""Renders a checkpoint's Jinja template, which is foreign code: sandboxed, and stopped when it asks for too much.

What templates may use is what transformers gives them: `tojson`, `strftime_now`, `raise_exception`, loop controls and
the `generation` tag. Nothing is read from disk, no attribute of an object is reached, and everything ends: each loop,
call and filter counts as a step, strings and numbers may grow only so far. (A signal would stop the main thread alone.)
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxpo.data.chat.limits import REFUSED_FILTERS, check_size, materialised, size_of_call, size_of_operation

MAX_SOURCE = 200_000
SECONDS, STEPS, CHARACTERS, TOGETHER = 3.0, 200_000, 1_000_000, 100
"""What one conversation may take: time, steps, the longest text, and all texts together as multiples of that; all grow
with what the template is given."""


class TemplateFailure(Exception):
    """A template that cannot be rendered, and why."""


@dataclass
class _Budget:
    """What is left of a rendering's time, steps and characters."""

    steps: int
    characters: int
    together: int
    deadline: float
    largest: int

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0 or (self.steps % 64 == 0 and time.monotonic() > self.deadline):
            raise SecurityError("it does not come to an end (a loop, or calls of itself)")

    def make(self, count: int) -> None:
        self.together -= count
        if count > self.characters or self.together < 0:
            raise SecurityError("it makes a text without end")

    def hold(self, value: Any) -> Any:
        check_size(value, self.largest)
        return value

    def write(self, count: int) -> None:
        self.make(count)
        self.characters -= count


def _budget(given: int) -> _Budget:
    longest, more = CHARACTERS + 16 * given, given / CHARACTERS
    return _Budget(STEPS + 4 * given, longest, TOGETHER * longest, time.monotonic() + SECONDS * (1 + more), longest)


_BUDGET: ContextVar[_Budget] = ContextVar("budget")
_MARKS: ContextVar[tuple[str, str]] = ContextVar("marks", default=("", ""))


class _Ticking(CodeGenerator):
    """Whatever runs more than once is the body of a loop or a macro; each of them counts."""

    def blockvisit(self, body: Any, frame: Any) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(body, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Any) -> None:
        self._held(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:
        self._held(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:
        if node.ctx == "load":
            self._held(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _held(self, visit: Callable[[Any, Any], None], node: Any, frame: Any) -> None:
        self.write("environment.held(")
        visit(node, frame)
        self.write(")")


class _Generation(Extension):
    """`{% generation %}`: what the assistant wrote, between two marks in the rendered text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        start, end = _MARKS.get()
        return f"{start}{caller()}{end}"


class _Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _Ticking
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: datetime):
        # Nothing is computed while compiling, where no budget counts.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[_Generation, loopcontrols],
            cache_size=0,
            finalize=_written,
        )
        self.filters = {name: _counted(name, of) for name, of in self.filters.items() if name not in REFUSED_FILTERS}
        self.filters["tojson"] = _counted("tojson", _tojson)
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise, "strftime_now": now.strftime, "dict": _dict}

    def tick(self) -> None:
        _BUDGET.get().step()

    def held(self, value: Any) -> Any:
        """A list, a tuple or a dictionary that was written down."""
        return _BUDGET.get().hold(value)

    def joined(self, parts: Iterable[Any]) -> str:
        """`a ~ b`."""
        return self.concat([str(self.held(part)) for part in parts])

    def concat(self, parts: Iterable[str]) -> str:
        """What a macro, a block or `a ~ b` gives."""
        texts = list(parts)
        _BUDGET.get().make(sum(map(len, texts)))
        return "".join(texts)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"it reads the attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _BUDGET.get().make(size_of_operation(operator, left, right))
        return _checked(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)
        name, owner = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        args = _BUDGET.get().hold(materialised(args))
        _BUDGET.get().step()
        _BUDGET.get().make(size_of_call(name, (owner, *args, *kwargs.values())))
        return _checked(super().call(context, obj, *args, **kwargs))


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args = materialised(args)
        _BUDGET.get().step()
        _BUDGET.get().make(size_of_call(name, (*args, *kwargs.values())))
        return _checked(function(*args, **kwargs))

    return wrapped


def _checked(value: Any) -> Any:
    if isinstance(value, Iterator):
        value = list(value)  # what is made later would be seen by nobody
    if isinstance(value, str | list | tuple):
        _BUDGET.get().make(len(value))
    return _BUDGET.get().hold(value)


@pass_context
def _written(context: Any, value: Any) -> Any:
    """A value before it becomes text; with the context, so that nothing is computed while compiling."""
    return _BUDGET.get().hold(value)


def _tojson(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    # The class itself would lend its methods, which change what they are given.
    return dict(*args, **kwargs)


def _raise(message: str) -> None:
    raise TemplateError(message)


class Compiled:
    """A template ready to be rendered; the date it may write is that of its making.

    Attributes:
      marks_generation: whether it says itself what the assistant wrote.
      writes_date: whether what it renders depends on the day.

    Raises:
      TemplateFailure: it is not Jinja, or absurdly long.
    """

    def __init__(self, source: str, now: datetime | None = None):
        if len(source) > MAX_SOURCE:
            raise TemplateFailure(f"it has {len(source):,} characters")
        self._environment = _Sandbox(now or datetime.now())
        try:
            tree = self._environment.parse(source)
            self._template = self._environment.from_string(source)
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise TemplateFailure(f"it is not a Jinja template: {_words(error)}") from error
        self.marks_generation = any(
            node.call.node.name == "_marked" and node.call.node.identifier == _Generation.identifier
            for node in tree.find_all(nodes.CallBlock)
            if isinstance(node.call.node, nodes.ExtensionAttribute)
        )
        self.writes_date = any(node.name == "strftime_now" for node in tree.find_all(nodes.Name))

    def render(self, variables: Mapping[str, Any], marks: tuple[str, str] = ("", "")) -> str:
        """The text.

        Args:
          variables: strings, numbers, lists and dictionaries only.
          marks: written before and after what stands in `{% generation %}`.

        Raises:
          TemplateFailure: it raises, does not end, grows without bound or reaches for attributes.
        """
        budget, start = _BUDGET.set(_budget(_size(variables))), _MARKS.set(marks)
        try:
            parts = []
            for part in self._template.generate(variables):
                parts.append(part)
                _BUDGET.get().write(len(part))
        except Exception as error:  # a template can raise anything that Python can
            raise TemplateFailure(_words(error)) from error
        finally:
            _BUDGET.reset(budget)
            _MARKS.reset(start)
        return "".join(parts)


def _words(error: Exception) -> str:
    kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
    line = getattr(error, "lineno", None)
    return f"{kind}{str(error).rstrip('.')}" + (f" (line {line})" if line else "")


def _size(value: Any) -> int:
    """Characters that a template is given."""
    if isinstance(value, Mapping):
        return sum(len(str(key)) + _size(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 1
