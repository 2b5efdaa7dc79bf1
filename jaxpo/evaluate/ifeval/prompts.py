"""The prompts of IFEval and of benchmarks in its format: a file, read and checked whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.errors import did_you_mean
from jaxpo.evaluate.ifeval.kinds import KINDS
from jaxpo.evaluate.ifeval.score import Instruction
from jaxpo.evaluate.tasks.files import place, task_rows, text_in

COLUMNS = {
    "prompt": "what is asked",
    "instruction_id_list": "the ids of its instructions",
    "kwargs": "for each of them an object with its arguments",
}
NEEDS = (
    "the prompts as published, JSONL with the columns key, prompt, instruction_id_list and kwargs "
    "(input_data.jsonl of google-research/instruction_following_eval, or google/IFEval on the Hub)"
)

Bind = Callable[[Row, str, str, Mapping[str, Any]], Instruction]
"""(row, field, instruction id, the object of its arguments) -> the instruction; DataError where there is none such."""


@dataclass(frozen=True)
class Instructed:
    """A prompt and its instructions.

    Attributes:
      where: file and row, for messages.
    """

    prompt: str
    instructions: tuple[Instruction, ...]
    where: str = ""


def bind(row: Row, where: str, id: str, given: Mapping[str, Any]) -> Instruction:
    """An instruction of one of the 25 kinds, with its arguments checked.

    Raises:
      DataError: an unknown id; an argument that is missing, of the wrong type or not the kind's.
    """
    if id not in KINDS:
        known = ", ".join(KINDS)
        raise row.error(f"unknown instruction {id!r}.{did_you_mean(id, KINDS)}", field=where, remedy=f"Known: {known}.")
    takes = KINDS[id].arguments
    if foreign := sorted(set(given) - set(takes)):
        has = f"takes {', '.join(takes)}" if takes else "takes no arguments"
        raise row.error(f"{foreign[0]!r} is no argument of {id}, which {has}.", field=where)
    if missing := [name for name in takes if name not in given]:
        raise row.error(f"{id} needs the argument {missing[0]!r}.", field=where)
    arguments = {name: _argument(row, f"{where}.{name}", given[name], read) for name, read in takes.items()}
    if arguments.get("nth_paragraph", 0) > arguments.get("num_paragraphs", 0):
        raise row.error(
            f"paragraph {arguments['nth_paragraph']} of {arguments['num_paragraphs']} cannot be.",
            field=f"{where}.nth_paragraph",
        )
    return Instruction(id, KINDS[id].check, arguments)


def read_prompts(task: str, source: str, needs: str = NEEDS, bind: Bind = bind) -> list[Instructed]:
    """All prompts of a file.

    Args:
      task: its name, for messages.
      source: the file, of any format that rows can have.
      needs: the file's format in one sentence, for messages.
      bind: makes an instruction of its id and arguments.

    Raises:
      DataError: names file, row and field: no such file, a missing column, an instruction that `bind` refuses.
    """
    return [_prompt(row, bind) for row in task_rows(task, source, COLUMNS, needs)]


def one_of_each(prompts: Sequence[Instructed]) -> list[Instruction]:
    """An instruction of every kind that occurs."""
    return list({one.id: one for prompt in prompts for one in prompt.instructions}.values())


def _prompt(row: Row, bind: Bind) -> Instructed:
    ids = _list(row, "instruction_id_list")
    kwargs = _list(row, "kwargs")
    if len(ids) != len(kwargs):
        raise row.error(f"has {len(kwargs)} entries for {len(ids)} instructions.", field="kwargs")
    if not ids:
        raise row.error("names no instruction.", field="instruction_id_list")
    return Instructed(text_in(row, "prompt"), tuple(_instructions(row, ids, kwargs, bind)), place(row))


def _instructions(row: Row, ids: Sequence[Any], kwargs: Sequence[Any], bind: Bind) -> Iterator[Instruction]:
    for i, (id, given) in enumerate(zip(ids, kwargs, strict=True)):
        if not isinstance(id, str):
            raise row.error(f"must be a text, found {type(id).__name__}.", field=f"instruction_id_list[{i}]")
        if not isinstance(given, Mapping):
            raise row.error(f"must be an object, found {type(given).__name__}.", field=f"kwargs[{i}]")
        # The Hub's file gives every object every key, null where it is not the kind's.
        yield bind(row, f"kwargs[{i}]", id, {name: value for name, value in given.items() if value is not None})


def _list(row: Row, name: str) -> Sequence[Any]:
    value = row.data[name]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise row.error(f"must be a list, found {type(value).__name__}.", field=name)
    return value


def _argument(row: Row, where: str, value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise row.error(f"{value!r}: {error}.", field=where) from error
