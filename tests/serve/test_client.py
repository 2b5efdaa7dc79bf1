"""The official client against a server whose answers are known: forms, streams, stop strings, calls of tools."""

import json
import threading

import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from serve.conftest import ANSWER
from serve.running import running

from jaxpo.data.chat.calls import CALL_END, CALL_START

ASK = [{"role": "user", "content": "What does the fox do?"}]


def test_the_models_are_listed(scripted):
    assert [model.id for model in scripted.client.models.list()] == ["tiny"]
    assert scripted.client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="no model 'huge'"):
        scripted.client.models.retrieve("huge")


def test_a_chat_is_answered(scripted, tokenizer):
    found = scripted.client.chat.completions.create(model="tiny", messages=ASK, n=2)
    assert [c.message.content for c in found.choices] == [ANSWER, tokenizer.decode(tokenizer.encode(ANSWER)[1:])]
    assert {c.finish_reason for c in found.choices} == {"stop"}
    assert [c.index for c in found.choices] == [0, 1]
    count = len(tokenizer.encode(ANSWER)) + 1
    assert found.usage.completion_tokens == count + count - 1
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.id.startswith("chatcmpl-")


def test_several_texts_go_on(scripted, tokenizer):
    found = scripted.client.completions.create(model="tiny", prompt=["the", "fox"], n=2, max_tokens=3)
    whole = tokenizer.encode(ANSWER)
    assert [c.index for c in found.choices] == [0, 1, 2, 3]
    assert [c.text for c in found.choices] == 2 * [tokenizer.decode(whole[:3]), tokenizer.decode(whole[1:4])]
    assert {c.finish_reason for c in found.choices} == {"length"}


def joined(chunks):
    """Choices of a chat's stream put together."""
    found = {}
    for chunk in chunks:
        for choice in chunk.choices:
            known = found.setdefault(choice.index, {"content": "", "logprobs": [], "finish": None, "calls": []})
            assert known["finish"] is None
            known["content"] += choice.delta.content or ""
            known["finish"] = choice.finish_reason
            known["logprobs"] += choice.logprobs.content if choice.logprobs else []
            known["calls"] += choice.delta.tool_calls or []
    return found


@pytest.mark.parametrize("stop", [None, "café", ["zzz", "é 你"], "fox and more"])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_stream_says_what_the_whole_answer_says(scripted, stop, logprobs):
    asked = {"model": "tiny", "messages": ASK, "n": 2, "stop": stop}
    asked |= {"logprobs": True, "top_logprobs": logprobs} if logprobs else {}
    whole = scripted.client.chat.completions.create(**asked)
    chunks = list(scripted.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len({chunk.id for chunk in chunks}) == 1
    found = joined(chunks)
    for choice in whole.choices:
        assert found[choice.index]["content"] == choice.message.content
        assert found[choice.index]["finish"] == choice.finish_reason
        assert found[choice.index]["logprobs"] == (choice.logprobs.content if logprobs else [])
    if not stop:
        assert whole.choices[0].message.content == ANSWER


def test_a_stream_comes_in_pieces(tokenizer):
    # The engine goes on when a piece has been read: else how many there are depends on who is faster.
    paced, pieces = threading.Semaphore(1), []
    ids = [*tokenizer.encode(ANSWER), tokenizer.eos_id]
    with running(ScriptedEngine(tokenizer, lambda request, sample: ids, paced=paced), tokenizer) as server:
        for chunk in server.client.completions.create(model="tiny", prompt="the", max_tokens=40, stream=True):
            pieces += [choice.text for choice in chunk.choices]
            paced.release()
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 5
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_log_probs_of_a_text(scripted, tokenizer):
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 5, "logprobs": 2}
    (choice,) = scripted.client.completions.create(**asked).choices
    ids = tokenizer.encode(ANSWER)[:5]
    assert choice.logprobs.tokens == tokenizer.pieces(ids)
    assert choice.logprobs.token_logprobs == [-1, -2, -3, -4, -5]
    assert choice.logprobs.text_offset == [len(tokenizer.decode(ids[:i])) for i in range(5)]
    # The two of the top and the token itself.
    assert [len(top) for top in choice.logprobs.top_logprobs] == [3] * 5
    streamed = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for chunk in scripted.client.completions.create(**asked, stream=True):
        for name, values in streamed.items():
            values += getattr(chunk.choices[0].logprobs, name)
    assert streamed == {name: getattr(choice.logprobs, name) for name in streamed}


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALLS = '[weather(city="Oslo", days=[1, 2], deep={"on": true}), time.now()]'


@pytest.fixture(scope="module")
def calling(tokenizer):
    """Answers to whose prompt ends with "broken" have a call that cannot be read."""
    start, end = (tokenizer.special_ids[mark] for mark in (CALL_START, CALL_END))

    def script(request, sample):
        inside = "weather(" if request.seed == 1 else CALLS
        ends = [] if request.seed == 2 else [end, *tokenizer.encode("I look."), tokenizer.eos_id]
        return [start, *tokenizer.encode(inside), *ends]

    with running(ScriptedEngine(tokenizer, script), tokenizer, context=1024) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_tools_are_read(calling, stream):
    asked = {"model": "tiny", "messages": ASK, "tools": TOOLS}
    if stream:
        (found,) = joined(calling.client.chat.completions.create(**asked, stream=True)).values()
        content, calls, finish = found["content"], found["calls"], found["finish"]
        assert [call.index for call in calls] == [0, 1]
    else:
        (choice,) = calling.client.chat.completions.create(**asked).choices
        content, calls, finish = choice.message.content, choice.message.tool_calls, choice.finish_reason
    assert content == "I look."
    assert finish == "tool_calls"
    assert [call.function.name for call in calls] == ["weather", "time.now"]
    assert json.loads(calls[0].function.arguments) == {"city": "Oslo", "days": [1, 2], "deep": {"on": True}}
    assert json.loads(calls[1].function.arguments) == {}
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("seed", "content"), [
    (1, f"{CALL_START}weather({CALL_END}I look."),
    (2, CALL_START + CALLS),
])  # fmt: skip
def test_what_is_no_call_is_text(calling, stream, seed, content):
    asked = {"model": "tiny", "messages": ASK, "tools": TOOLS, "seed": seed}
    if stream:
        (found,) = joined(calling.client.chat.completions.create(**asked, stream=True)).values()
        assert (found["content"], found["calls"]) == (content, [])
    else:
        (choice,) = calling.client.chat.completions.create(**asked).choices
        assert (choice.message.content, choice.message.tool_calls) == (content, None)


def test_without_tools_nothing_is_a_call(calling):
    for extra in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        (choice,) = calling.client.chat.completions.create(model="tiny", messages=ASK, **extra).choices
        assert choice.message.tool_calls is None
        assert choice.message.content == f"{CALLS}I look."


def test_a_conversation_with_calls_goes_on(calling):
    """What the client was given can be sent back as it is."""
    first = calling.client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS).choices[0].message
    said = [*ASK, first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"}]
    again = calling.client.chat.completions.create(model="tiny", messages=said, tools=TOOLS)
    assert again.usage.prompt_tokens > 60
