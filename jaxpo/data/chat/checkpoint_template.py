"""A checkpoint's own chat template as spans: its marks become special tokens, and what is trained on is found in it.

Where the template says what the assistant wrote (`{% generation %}`), that is trained on. Where it does not, an answer
is what a conversation up to it has more than the prompt before it, which is checked for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.chat.calls import in_content, name_and_arguments, reasoning_of
from jaxpo.data.chat.chat import OF_ASSISTANTS, Message, Span, TrainOn, content_of, text_of, trained_messages
from jaxpo.data.chat.guard import Guard
from jaxpo.data.chat.sandbox import Compiled, TemplateFailure
from jaxpo.data.tokenizer.checkpoint_files import DEFAULT, WITH_TOOLS
from jaxpo.errors import DataError

_OTHERWISE = "Or use LFM2's: remove chat_template.jinja, and `chat_template` from tokenizer_config.json."
_THOUGHT, _NAME, _VALUE, _WORD = "thinks7", "calls7", "gives7", "says7"


class CheckpointTemplate:
    """Renders conversations with a checkpoint's template; called like `chat.render`.

    Attributes:
      lacks: what the template leaves out: "system", "tools", "tool", "tool_calls", "reasoning_content". The last two
        are then written into the content.

    Raises:
      TemplateFailure: not Jinja.
    """

    def __init__(self, templates: Mapping[str, str], tokens: Mapping[str, str], marks: Sequence[str]):
        now = datetime.now()
        self._templates = {name: Compiled(text, now) for name, text in templates.items()}
        self._tokens, self._marks = dict(tokens), tuple(marks)
        # transformers hands templates objects; one that joins strings as they are gets them as they were written.
        self._reads_strings = self._shows(_asked(tools=[_WRITTEN]), (_WRITTEN,))
        self.lacks = frozenset(name for name, (given, words) in _PROBES.items() if not self._shows(given, words))

    @property
    def marks_generation(self) -> bool:
        """Whether it says itself what the assistant wrote."""
        return self._templates[DEFAULT].marks_generation

    @property
    def writes_date(self) -> bool:
        """Whether its text depends on the day."""
        return any(template.writes_date for template in self._templates.values())

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        train_on: TrainOn = "assistant",
        first_trained: int = 0,
    ) -> list[Span]:
        """As `chat.render`.

        Raises:
          DataError: the template fails, leaves something out, or does not show where answers begin and end.
        """
        self._check(messages, tools)
        flags = trained_messages(messages, train_on, first_trained)
        guard = Guard(self._marks, [messages, tools, self._tokens])
        given = [self._given(message, guard) for message in messages]
        listed = guard.broken(self._listed(tools)) if tools else None
        answers = train_on == "assistant" and any(flags)
        template = self._template(listed)
        try:
            text = self._text(given, listed, add_generation_prompt, (guard.start, guard.end))
            if answers and not template.marks_generation:
                _check_roles(messages, flags)
                text = self._marked_by_prefixes(text, given, listed, flags, guard)
                return list(_spans(guard, text, [flag for flag in flags if flag]))
        except TemplateFailure as error:
            raise DataError(
                f"the model's chat template cannot render this conversation: {error}.",
                remedy=f"Change the row. {_OTHERWISE}",
            ) from error
        if answers:
            _check_roles(messages, flags)
            of_assistants = [flag for flag, m in zip(flags, messages, strict=True) if m["role"] == "assistant"]
            return list(_spans(guard, text, of_assistants))
        return [replace(span, supervised=train_on == "all") for span in _spans(guard, text, None)]

    def text(self, messages: Sequence[Message], *, generation: bool) -> str:
        """The rendered text; DataError as in a call."""
        return text_of(self(messages, add_generation_prompt=generation, train_on="none"))

    def _text(self, given: Sequence[Any], tools: Any, generation: bool, marks: tuple[str, str] = ("", "")) -> str:
        variables = {**self._tokens, "messages": list(given), "tools": tools, "add_generation_prompt": generation}
        return self._template(tools).render(variables, marks)

    def _template(self, tools: Any) -> Compiled:
        return self._templates[WITH_TOOLS if tools and WITH_TOOLS in self._templates else DEFAULT]

    def _marked_by_prefixes(
        self, text: str, given: Sequence[Any], tools: Any, flags: Sequence[bool], guard: Guard
    ) -> str:
        """The text with marks around what is trained on."""
        marked, done = "", 0
        for i in (i for i, flag in enumerate(flags) if flag):
            before, through = self._text(given[:i], tools, True), self._text(given[: i + 1], tools, False)
            if not (through.startswith(before) and text.startswith(through) and done <= len(before)):
                raise _unmarked(i, reasoning=any(map(reasoning_of, given)))
            marked += text[done : len(before)] + guard.start + text[len(before) : len(through)] + guard.end
            done = len(through)
        return marked + text[done:]

    def _given(self, message: Message, guard: Guard) -> dict[str, Any]:
        """A message as templates expect it, without marks; a call in the form of OpenAI."""
        trusted = OF_ASSISTANTS if message["role"] == "assistant" else ()
        rest = {name: guard.broken(value) for name, value in message.items() if name not in ("train", "content")}
        rest |= {"content": guard.broken(content_of(message), trusted)}
        folded = in_content(rest, reasoning="reasoning_content" in self.lacks, calls="tool_calls" in self.lacks)
        given = dict(folded)
        if thought := reasoning_of(given):
            given["thinking"] = thought
        if calls := given.pop("tool_calls", None):
            given["tool_calls"] = [_openai(call) for call in calls]
        return given

    def _listed(self, tools: Sequence[Any]) -> list[Any]:
        return list(tools) if self._reads_strings else [_parsed(tool) for tool in tools]

    def _check(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> None:
        roles = {message["role"] for message in messages}
        for name in ("system", "tool"):
            if name in roles and name in self.lacks:
                raise _left_out(f"messages of the role {name!r}", name)
        if tools and "tools" in self.lacks:
            raise _left_out("`tools`", "tools")

    def _shows(self, given: Mapping[str, Any], words: Sequence[str]) -> bool:
        """Whether words of a conversation occur in what it renders to."""
        try:
            text = self._text(given["messages"], given.get("tools"), False)
        except TemplateFailure:
            return False
        return all(word in text for word in words)


def _spans(guard: Guard, text: str, flags: Sequence[bool] | None) -> Iterator[Span]:
    """The k-th stretch between marks is trained on as the k-th flag says; None = none is."""
    parts = list(guard.parts(text))
    found = sum(part == guard.start for part, _ in parts)
    if flags is not None and found != len(flags):
        raise DataError(
            f"the model's chat template marks {found} answers in a conversation with {len(flags)}.",
            remedy="Put {% generation %} ... {% endgeneration %} around what the assistant writes, once for each "
            f"message. {_OTHERWISE}",
        )
    k, inside = -1, False
    for part, control in parts:
        if control and part in (guard.start, guard.end):
            inside = part == guard.start
            k += inside
        else:
            trained = inside and flags is not None and flags[k]
            yield Span(part, trained, "assistant" if inside else "", control)


def _check_roles(messages: Sequence[Message], flags: Sequence[bool]) -> None:
    for i, (message, flag) in enumerate(zip(messages, flags, strict=True)):
        if flag and message["role"] != "assistant":
            raise DataError(
                f"message {i} ({message['role']}) is to be trained on, but in what the model's own chat template "
                "renders only answers can be found.",
                field="train",
                remedy=f"Leave out its `train`. {_OTHERWISE}",
            )


def _unmarked(index: int, *, reasoning: bool) -> DataError:
    strip = " Or leave out the reasoning (data.reasoning=strip)." if reasoning else ""
    return DataError(
        f"message {index} cannot be told from what comes before it: the model's chat template has no generation marks, "
        "and a shorter conversation does not render to the start of a longer one.",
        remedy=f"Put {{% generation %}} ... {{% endgeneration %}} around what the assistant writes in it.{strip} "
        f"{_OTHERWISE}",
    )


def _openai(call: Any) -> dict[str, Any]:
    name, arguments = name_and_arguments(call)
    rest = {key: value for key, value in call.items() if key not in ("name", "arguments", "function")}
    return {"type": "function", **rest, "function": {"name": name, "arguments": arguments}}


def _parsed(tool: Any) -> Any:
    try:
        return parse(tool) if isinstance(tool, str) else tool
    except ValueError:
        return tool


def _left_out(what: str, field: str) -> DataError:
    return DataError(
        f"the model's chat template leaves out {what}: they would not be trained on.",
        field=field,
        remedy=f"Remove them from the rows. {_OTHERWISE}",
    )


def _asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, *messages], **more}


_WRITTEN = '{"name":"written7"}'
_CALL = {"type": "function", "function": {"name": _NAME, "arguments": {"x": _VALUE}}}
_AGAIN = {"role": "user", "content": "b"}
_PROBES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "system": ({"messages": [{"role": "system", "content": _WORD}, _AGAIN]}, (_WORD,)),
    "tools": (_asked(tools=[{"type": "function", "function": {"name": _NAME, "parameters": {}}}]), (_NAME,)),
    "tool": (
        _asked(
            {"role": "assistant", "content": "c", "tool_calls": [_CALL]},
            {"role": "tool", "name": _NAME, "tool_call_id": "abcdefghi", "content": _WORD},
        ),
        (_WORD,),
    ),
    "tool_calls": (_asked({"role": "assistant", "content": "", "tool_calls": [_CALL]}), (_NAME, _VALUE)),
    "reasoning_content": (
        _asked({"role": "assistant", "content": "c", "reasoning_content": _THOUGHT, "thinking": _THOUGHT}),
        (_THOUGHT,),
    ),
}
