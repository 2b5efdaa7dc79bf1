"""The dataset contract (TRL's, and a few columns more): detect a row's type, check its values, normalise it.

| type | columns |
|---|---|
| text | text |
| messages | messages (or ShareGPT's conversations with from / value) |
| prompt | prompt |
| prompt_completion | prompt, completion (or alpaca's instruction, input, output) |
| preference | [prompt,] chosen, rejected |
| triple | prompt, chosen, rejected, gold |
| two_prompt | prompt_chosen, prompt_rejected, chosen, rejected |
| unpaired | prompt, completion, label |
| list | prompt, responses, scores |

Texts are strings or lists of messages. Without a prompt column a pair's prompt is the common start of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxpo.data.columns import extra_columns
from jaxpo.data.formats import Row
from jaxpo.data.row_texts import Text, answer, messages, string, text_of_column, text_or_messages

# In the order of detection: the first type whose columns are all there.
TYPES: dict[str, tuple[str, ...]] = {
    "two_prompt": ("prompt_chosen", "prompt_rejected", "chosen", "rejected"),
    "triple": ("prompt", "chosen", "rejected", "gold"),
    "list": ("prompt", "responses", "scores"),
    "preference": ("chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
    "prompt": ("prompt",),
}
# A row with one of these is no bare prompt but a row that lacks something.
_ANSWERS = {name for required in TYPES.values() for name in required} - {"prompt"} | {"completions", "labels"}
_ALIASES = {"conversations": "messages", "conversation": "messages"}


@dataclass(frozen=True)
class Side:
    """One text of an example: what is given and what is to be learnt. `prompt` None = plain text or a conversation."""

    role: str
    prompt: Text | None
    completion: Text


@dataclass(frozen=True)
class Record:
    """A checked row: its sides in the order of its segments, and its columns of numbers."""

    row: Row
    kind: str
    sides: tuple[Side, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()


def detect(row: Row) -> str:
    """The dataset type of a row, from its columns; DataError lists what was found and what is accepted."""
    columns = set(canonical(row).data)
    for kind, required in TYPES.items():
        if columns.issuperset(required) and not (kind == "prompt" and columns & _ANSWERS):
            return kind
    if {"completions", "labels"} <= columns:
        raise row.error("stepwise supervision cannot be trained on.", remedy=_accepted())
    started = {kind: set(names) - columns for kind, names in TYPES.items() if columns & (set(names) - {"prompt"})}
    if started:
        nearest = min(started, key=lambda kind: len(started[kind]))
        missing = next(name for name in TYPES[nearest] if name not in columns)
        raise row.error(f"type {nearest!r} lacks column {missing!r}.", field=missing, remedy=_accepted())
    raise row.error(f"no dataset type has columns {sorted(columns)}.", remedy=_accepted())


def canonical(row: Row) -> Row:
    """Rename the columns of other formats (ShareGPT, alpaca) to the contract's."""
    data = {_ALIASES.get(name, name): value for name, value in row.data.items()}
    if "instruction" in data and "output" in data and "prompt" not in data:
        instruction = string(row, "instruction", data.pop("instruction"))
        given = data.pop("input", "")
        data["prompt"] = instruction + (f"\n\n{string(row, 'input', given)}" if given else "") + "\n\n"
        data["completion"] = data.pop("output")
    return Row(row.file, row.number, data)


def read_record(row: Row, kind: str, *, extras: tuple[str, ...] = ()) -> Record:
    """Check and normalise one row.

    Args:
      row: as read.
      kind: the dataset's type; a row without its columns is an error.
      extras: optional columns and segments that every row must have ("margin", "rationale", ...).

    Raises:
      DataError: names file, row, field and remedy.
    """
    row = canonical(row)
    for name in (*TYPES[kind], *extras):
        if name not in row.data:
            raise row.error(
                f"column {name!r} is missing; the file's other rows have it.",
                field=name,
                remedy="Every row needs the same columns; add it or remove the row.",
            )
    sides = _SIDES[kind](row)
    if "rationale" in extras:
        sides += (Side("rationale", text_of_column(row, "rationale_prompt"), answer(row, "rationale")),)
    tools = row.data.get("tools", ())
    if not isinstance(tools, list | tuple):
        raise row.error("`tools` must be a list.", field="tools", remedy="One JSON schema or string per tool.")
    return Record(row, kind, sides, extra_columns(row, extras, candidates=len(sides)), tuple(tools))


def _text_sides(row: Row) -> tuple[Side, ...]:
    return (Side("text", None, string(row, "text", row.data["text"], empty_ok=False)),)


def _message_sides(row: Row) -> tuple[Side, ...]:
    return (Side("completion", None, messages(row, "messages", row.data["messages"])),)


def _prompt_sides(row: Row) -> tuple[Side, ...]:
    prompt = text_of_column(row, "prompt")
    return (Side("prompt", prompt, [] if isinstance(prompt, list) else ""),)


def _completion_sides(row: Row) -> tuple[Side, ...]:
    return (_side(row, "completion", text_of_column(row, "prompt"), answer(row, "completion"), "completion"),)


def _pair_sides(row: Row) -> tuple[Side, ...]:
    chosen, rejected = answer(row, "chosen"), answer(row, "rejected")
    if chosen == rejected:
        raise row.error(
            "chosen == rejected: the pair says nothing.", field="rejected", remedy="Remove the row or correct it."
        )
    prompt = text_of_column(row, "prompt") if "prompt" in row.data else None
    if prompt is None or (isinstance(prompt, str) and isinstance(chosen, list)):
        prompt, chosen, rejected = _split_prompt(row, chosen, rejected)
    return (_side(row, "chosen", prompt, chosen, "chosen"), _side(row, "rejected", prompt, rejected, "rejected"))


def _triple_sides(row: Row) -> tuple[Side, ...]:
    pair = _pair_sides(row)
    return (*pair, _side(row, "gold", pair[0].prompt, answer(row, "gold"), "gold"))


def _two_prompt_sides(row: Row) -> tuple[Side, ...]:
    given = {name: text_of_column(row, f"prompt_{name}") for name in ("chosen", "rejected")}
    sides = tuple(_side(row, name, prompt, answer(row, name), name) for name, prompt in given.items())
    if sides[0].prompt == sides[1].prompt and sides[0].completion == sides[1].completion:
        raise row.error(
            "chosen == rejected under the same prompt.", field="rejected", remedy="Remove the row or correct it."
        )
    return sides


def _list_sides(row: Row) -> tuple[Side, ...]:
    responses, scores = row.data["responses"], row.data["scores"]
    if not isinstance(responses, list) or not isinstance(scores, list):
        raise row.error("`responses` and `scores` must be lists.", field="responses")
    if len(responses) < 2:
        raise row.error(
            f"{len(responses)} response(s); a ranked list needs at least 2.",
            field="responses",
            remedy="Remove the row, or use prompt + completion.",
        )
    if len(scores) != len(responses):
        raise row.error(
            f"{len(responses)} responses but {len(scores)} scores.", field="scores", remedy="Give one per response."
        )
    prompt = text_of_column(row, "prompt")
    texts = [text_or_messages(row, "responses", response, empty_ok=True) for response in responses]
    return tuple(_side(row, "candidate", prompt, text, "responses") for text in texts)


_SIDES = {
    "text": _text_sides,
    "messages": _message_sides,
    "prompt": _prompt_sides,
    "prompt_completion": _completion_sides,
    "unpaired": _completion_sides,
    "preference": _pair_sides,
    "triple": _triple_sides,
    "two_prompt": _two_prompt_sides,
    "list": _list_sides,
}


def _side(row: Row, role: str, prompt: Text | None, completion: Text, column: str) -> Side:
    """Bring both texts to one form: an answer string under a conversational prompt is an assistant turn."""
    if isinstance(prompt, list) and isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}] if completion else []
    if isinstance(prompt, str) and isinstance(completion, list):
        raise row.error(
            f"prompt is a string but {column} is a list of messages.", field=column, remedy="Give both the same form."
        )
    if isinstance(completion, list) and completion and completion[0]["role"] != "assistant":
        raise row.error(
            f"{column} starts with a turn of {completion[0]['role']!r}.",
            field=column,
            remedy="It must start with the assistant's turn; what comes before belongs to the prompt.",
        )
    return Side(role, prompt, completion)


def _split_prompt(row: Row, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The common start of both sides, cut between messages, or between words of strings."""
    if type(chosen) is not type(rejected):
        raise row.error("chosen and rejected have different forms.", field="rejected", remedy="Use one form for both.")
    cut = 0
    while cut < min(len(chosen), len(rejected)) and chosen[cut] == rejected[cut]:
        cut += 1
    if isinstance(chosen, str):
        cut = _word_start(chosen, cut)
    else:
        while cut > 0 and not _both_answer(chosen[cut:], rejected[cut:]):
            cut -= 1
    if cut == 0 or cut >= len(chosen) or cut >= len(rejected):
        raise row.error(
            "there is no `prompt`, and chosen and rejected share no start that could serve as one.",
            field="prompt",
            remedy="Add a prompt column.",
        )
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _both_answer(chosen: Text, rejected: Text) -> bool:
    return all(isinstance(rest, list) and rest and rest[0]["role"] == "assistant" for rest in (chosen, rejected))


def _word_start(text: str, cut: int) -> int:
    """Step back so that a word and the space before it stay whole."""
    while cut > 0 and cut < len(text) and not text[cut].isspace() and not text[cut - 1].isspace():
        cut -= 1
    while cut > 0 and text[cut - 1] == " ":
        cut -= 1
    return cut


def _accepted() -> str:
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in TYPES.items())
    return f"Rename columns to one of: {listed}."
