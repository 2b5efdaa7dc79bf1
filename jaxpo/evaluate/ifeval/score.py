"""Strict and loose: does an answer follow the instructions of its prompt.

Reference: Zhou et al. 2023 (arXiv 2311.07911), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Instruction:
    """One instruction of a prompt.

    Attributes:
      id: its kind.
      check: whether an answer follows it.
      arguments: of the check.
    """

    id: str
    check: Callable[..., bool]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def followed(self, answer: str) -> bool:
        """Whether an answer follows; a blank one follows nothing."""
        return bool(answer.strip()) and self.check(answer, **self.arguments)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.id}({given})" if given else self.id


@dataclass(frozen=True)
class Followed:
    """Of every instruction of a prompt, whether an answer follows it."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def variants(answer: str) -> list[str]:
    """The answer in the eight forms of the loose reading, the equal ones once.

    As it is, without its first line, without its last, without both; and each of these without asterisks.
    """
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cut, *(form.replace("*", "") for form in cut)]))


def follow(answer: str, instructions: Sequence[Instruction]) -> Followed:
    """Strict: the answer as it is follows. Loose: one of its `variants` does; each instruction may choose another."""
    strict = tuple(instruction.followed(answer) for instruction in instructions)
    forms = variants(answer)[1:]
    loose = tuple(
        hit or any(instruction.followed(form) for form in forms)
        for hit, instruction in zip(strict, instructions, strict=True)
    )
    return Followed(strict, loose)
