"""Answers of a given form from a random model, over the wire: whatever it says, it says it in that form."""

import json
import re

import openai
import pytest

ASK = [{"role": "user", "content": "the fox"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["fox", "dog"]},
        "lazy": {"type": "boolean"},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "lazy"],
    "additionalProperties": False,
}


def said(served, stream=False, **options):
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 80, "seed": 3, **options}
    if stream:
        chunks = served.client.chat.completions.create(**asked, stream=True)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return served.client.chat.completions.create(**asked).choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_json_of_a_schema(served, tokenizer, stream):
    # Noise would fill the answer with blanks, which JSON allows.
    blanks = [i for i in range(14, tokenizer.vocab_size) if tokenizer.decode([i]).isspace()]
    bias = {str(i): -100 for i in blanks} | {str(tokenizer.eos_id): 5}
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}}
    for seed in range(5):
        found = json.loads(said(served, stream, response_format=form, seed=seed, logit_bias=bias))
        assert found["name"] in ("fox", "dog")
        assert isinstance(found["lazy"], bool)
        assert set(found) <= set(SCHEMA["properties"])


def test_a_pattern_and_a_choice(served):
    for seed in range(5):
        assert re.fullmatch(r"[ab]{3}-\d\d", said(served, extra_body={"regex": r"[ab]{3}-\d\d"}, seed=seed))
        assert said(served, extra_body={"choice": ["yes", "no", "naïve"]}, seed=seed) in ("yes", "no", "naïve")


def test_any_json_object(served):
    assert said(served, response_format={"type": "json_object"}, max_tokens=5, temperature=0).lstrip().startswith("{")


def test_text_is_no_form(served):
    assert said(served, response_format={"type": "text"}) == said(served)


@pytest.mark.parametrize(("options", "param"), [
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strange"}}}}, "response_format"),
    ({"extra_body": {"regex": "(a"}}, "regex"),
])  # fmt: skip
def test_a_form_that_is_none_is_refused(served, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        said(served, **options)
    assert caught.value.param == param
