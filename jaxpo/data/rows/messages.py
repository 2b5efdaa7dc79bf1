"""Messages in one form, whichever stack wrote them: role, content, and what else the template and the mask read.

    {"role": "system | user | assistant | tool", "content": str,
     "tool_calls": [{"name": str, "arguments": dict | str}], "reasoning_content": str, "name": str, "tool_call_id": str,
     "train": bool}

All but the first two are there only when they say something. `train` overrules what the role means for the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.data.rows.contents import Place, content_of
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.tools import calls_in_text, calls_of
from jaxpo.errors import did_you_mean

ROLES = ("system", "user", "assistant", "tool")
ALIASES = {
    **{"developer": "system", "human": "user", "prompter": "user"},
    **dict.fromkeys(("gpt", "model", "chatgpt", "bot", "ai", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("observation", "function", "ipython", "function_response", "tool_response"), "tool"),
}
_CALLING = ("function_call", "tool_call")
REASONING = ("reasoning_content", "thinking", "reasoning")
TRAINED = ("train", "weight", "loss")
KEPT = ("name", "tool_call_id")
KEYS = {"role", "from", "content", "value", "tool_calls", "function_call", *REASONING, *TRAINED, *KEPT}
"""What is read of a message; other keys are counted."""
FORM = 'A message is {"role": "user", "content": "..."}.'

Message = dict[str, Any]


def messages(row: Row, name: str, value: Any) -> list[Message]:
    """Messages in the form above, those of other stacks translated; DataError names the message."""
    if not isinstance(value, list):
        raise row.error("expected a list of at least one message.", field=name, remedy=FORM)
    if not value:
        raise row.empty("the conversation is empty.", field=name)
    return [_message(Place(row, name, i), message) for i, message in enumerate(value)]


def _message(place: Place, given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise place.error("has no role.", FORM)
    message = {key: value for key, value in given.items() if value is not None}
    written = _written_role(place, message)
    role = _role(place, written)
    content, thought = content_of(place, role, message.get("content", message.get("value")))
    calls = calls_of(place, message)
    if written in _CALLING and not calls:
        content, calls = calls_in_text(place, content)
    reasoning = _reasoning(place, message, thought)
    _check_turn(place, role, content, calls, reasoning)
    normal: Message = {"role": role, "content": content or ""}
    normal |= {"tool_calls": calls} if calls else {}
    normal |= {"reasoning_content": reasoning} if reasoning else {}
    normal |= {key: message[key] for key in KEPT if message.get(key)}
    trained = _trained(place, message, role)
    return normal if trained is None else normal | {"train": trained}


def _written_role(place: Place, message: Mapping[str, Any]) -> str:
    written = message.get("role", message.get("from"))
    if not isinstance(written, str):
        raise place.error("has no role.", FORM)
    return written.strip().lower()


def _role(place: Place, written: str) -> str:
    role = ALIASES.get(written, written)
    if role not in ROLES:
        hint = did_you_mean(written, (*ROLES, *ALIASES))
        accepted = "; ".join(f"{r} (or {', '.join(a for a, of in ALIASES.items() if of == r)})" for r in ROLES)
        raise place.error(f"has the role {written!r}.{hint}", f"Accepted roles: {accepted}.")
    return role


def _reasoning(place: Place, message: Mapping[str, Any], thought: str) -> str:
    """The assistant's thoughts, under whichever name; a second one must say the same."""
    said = {key: message[key] for key in REASONING if message.get(key)} | ({"content": thought} if thought else {})
    for key, text in said.items():
        if not isinstance(text, str):
            raise place.error(f"has {key} of type {type(text).__name__}.", "Give the thoughts as a string.")
    if len(set(said.values())) > 1:
        raise place.error(f"has different thoughts under {' and '.join(said)}.", "Keep one of them.")
    return next(iter(said.values()), "")


def _check_turn(place: Place, role: str, content: str | None, calls: list[Any], reasoning: str) -> None:
    extras = [name for name, there in (("tool_calls", calls), ("reasoning_content", reasoning)) if there]
    if extras and role != "assistant":
        raise place.error(
            f"({role}) has `{extras[0]}`, which is the assistant's.", "Move it into the assistant's turn."
        )
    empty = content is None or (role == "assistant" and content == "")
    if empty and not calls and role == "assistant":
        raise place.row.empty(f"message {place.index} ({role}) has no content.", field=place.column)
    if empty and not calls:
        raise place.error(f"({role}) has no content.", FORM)


def _trained(place: Place, message: Mapping[str, Any], role: str) -> bool | None:
    """What `train`, `weight` or `loss` say; None where the role decides. Only `train` can add a turn to the mask."""
    if message.get("train_detail"):
        raise place.error(
            "has `train_detail`; a turn is trained on whole or not at all.", "Use `train`: true or false."
        )
    said = {key: _flag(place, key, message[key]) for key in TRAINED if key in message}
    if len(set(said.values())) > 1:
        raise place.error(f"says both: {', '.join(f'{k} {message[k]!r}' for k in said)}.", "Keep one of them.")
    if False in said.values():
        return False
    return True if said.get("train") and role != "assistant" else None


def _flag(place: Place, key: str, value: Any) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise place.error(
            f"has {key} {value!r}; a turn is trained on (1, true) or not (0, false).",
            f"Use 0 or 1; a {key} between them has no meaning here. Leave out rows or turns that should count less.",
        )
    return bool(value)
