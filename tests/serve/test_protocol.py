"""Bad bodies as data: every one is refused with 400 and the field's name, before anything is tokenised."""

import json

import pytest

from jaxpo.sampling.sampler import Sampler
from jaxpo.serve.errors import ApiError
from jaxpo.serve.protocol import (
    REFUSED,
    read_chat,
    read_completion,
    read_detokenize,
    read_object,
    read_tokenize,
)
from jaxpo.serve.settings import ACCEPTED

SAID = {"messages": [{"role": "user", "content": "hi"}]}
TEXT = {"prompt": "hi"}

SHARED = [
    ({"max_tokens": "7"}, "max_tokens"),
    ({"max_tokens": 7.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"min_p": 2}, "min_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.0}, "top_k"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": [1]}, "presence_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": None, "seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": 3}, "stop"),
    ({"stop_token_ids": ["a"]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"the": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "much"}}, "logit_bias"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"include": True}}, "stream_options.include"),
    ({"model": 5}, "model"),
    ({"user": 5}, "user"),
    ({"store": True}, "store"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "response_format.json_schema.schema"),
    ({"regex": ""}, "regex"),
    ({"choice": []}, "choice"),
    ({"choice": ["a", 1]}, "choice"),
    ({"regex": "a", "choice": ["a"]}, "choice"),
    ({"temprature": 1}, "temprature"),
    ({"guided_json": {}}, "guided_json"),
    ({"x" * 500: 1}, "x" * 500),
]
COMPLETION = [
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": [5, "a"]}, "prompt"),
    ({"prompt": [[5], 5]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": ["a"] * 2049}, "prompt"),
    ({"echo": "yes"}, "echo"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"best_of": 3}, "best_of"),
    ({"messages": []}, "messages"),
    ({"suffix": "end"}, "suffix"),
]
CHAT = [
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["hi"]}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "hi", "weight": 1}]}, "messages.0.weight"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]}, "messages.0.content.0"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages.0.content.0",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]}
            ]
        },
        "messages.0.content.0.image_url.detail",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"link": "x"}}]}]},
        "messages.0.content.0.image_url.url",
    ),
    ({"messages": [{"role": "user", "content": "hi", "tool_calls": [{"name": "f"}]}]}, "messages"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "messages"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "code_interpreter"}]}, "tools.0.type"),
    ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function"}], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [{"type": "function"}], "parallel_tool_calls": False}, "parallel_tool_calls"),
    ({"tools": [{"type": "function"}], "response_format": {"type": "json_object"}}, "tools"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"echo": True}, "echo"),
    ({"prompt": "hi"}, "prompt"),
    *(({name: "x"}, name) for name in REFUSED),
]


@pytest.mark.parametrize(
    ("read", "body", "param"),
    [
        *((read_completion, TEXT | bad, param) for bad, param in [*SHARED, *COMPLETION]),
        *((read_chat, SAID | bad, param) for bad, param in [*SHARED, *CHAT]),
        (read_tokenize, {"prompt": 5}, "prompt"),
        (read_tokenize, {}, "prompt"),
        (read_tokenize, {"prompt": "a", "messages": []}, "messages"),
        (lambda body, _: read_detokenize(body), {"tokens": "a"}, "tokens"),
    ],
)
def test_a_bad_field_is_named(read, body, param):
    with pytest.raises(ApiError) as caught:
        read(body, Sampler()) if read is not read_tokenize else read(body)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert len(caught.value.message) < 1000
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [
    b"", b"{", b'{"prompt": "a"', b"[]", b'"a"', b"null", b"\xff{}", b'{"a": "\\ud800"}', b"[" * 100_000, b"{} {}",
])  # fmt: skip
def test_what_is_no_object_is_refused(body):
    with pytest.raises(ApiError) as caught:
        read_object(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"max_tokens": "7"}, "`max_tokens` is '7'; it must be a whole number of at least 1 and at most 2147483647."),
        ({"seed": 2**63}, f"at least {-(2**63)} and at most {2**63 - 1}."),
        ({"logit_bias": {"5": "1"}}, "`logit_bias` of 5 is '1'; it must be a number of at least -100 and at most 100."),
    ],
)
def test_strings_are_quoted_and_bounds_are_exact(field, said):
    with pytest.raises(ApiError) as caught:
        read_completion(TEXT | field, Sampler())
    assert caught.value.message.endswith(said)


def test_a_misspelt_field_is_hinted_at():
    with pytest.raises(ApiError, match="Did you mean temperature"):
        read_completion(TEXT | {"temperatur": 1}, Sampler())


def test_what_changes_nothing_is_accepted_and_null_is_absence():
    given = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h"}
    given |= {"metadata": {}, "store": False, "service_tier": "auto"}
    assert set(given) == set(ACCEPTED)
    assert read_completion(TEXT | given, Sampler()) == read_completion(TEXT, Sampler())
    empty = dict.fromkeys(("n", "stop", "seed", "logit_bias", "response_format", "max_tokens", "suffix", "tools"))
    assert read_completion(TEXT | empty, Sampler()) == read_completion(TEXT, Sampler())


def test_settings_of_the_server_stand_where_a_request_gives_none():
    own = Sampler(temperature=0.3, min_p=0.15)
    assert read_chat(SAID, own).settings.sampler == own
    assert read_chat(SAID | {"temperature": 1, "top_k": -1}, own).settings.sampler == Sampler(min_p=0.15)


def test_messages_are_read_as_training_reads_them():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    sent_back = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": calls}
    body = read_chat(
        json.loads(json.dumps({"messages": [{"role": "developer", "content": parts}, sent_back]})), Sampler()
    )
    assert body.messages == [
        {"role": "system", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
    ]
