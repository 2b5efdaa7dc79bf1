"""Answers of a given form without a model: whatever is drawn of the allowed tokens is something of the form."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError
from jaxpo.sampling import constraints
from jaxpo.sampling.constraints import Choice, JsonObject, JsonSchema, Regex

pytest.importorskip("llguidance")

SAMPLES, LIMIT = 1000, 4000
BEYOND = 50
"""Rows of the model's vocabulary that the tokenizer has no id for."""
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "maxItems": 3},
        "mood": {"anyOf": [{"const": "good"}, {"type": "null"}]},
        "size": {"type": "number", "minimum": -1, "exclusiveMaximum": 2.5},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.fixture(scope="module")
def bpe():
    """Tokens that run over the borders of JSON's parts, `{"` and `": ` among them."""
    return train_tokenizer(['{"name": "the fox", "age": 12, "tags": ["a", null]} naïve 你好 yes no'] * 3, 400)


@pytest.fixture(scope="module")
def byte():
    """No token longer than a byte: characters are drawn piece by piece."""
    return train_tokenizer(["a"], 270)


def ids_of(mask):
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def walk(form, tokenizer, rng, limit=LIMIT):
    """The text of one uniform draw, None where it was cut; what the contract says is checked at every token."""
    size = tokenizer.vocab_size + BEYOND
    matcher = form.begin(tokenizer, size)
    mask, tokens = np.empty(-(-size // 32), np.uint32), []
    while len(tokens) < limit:
        mask[:] = 0xFFFFFFFF
        assert matcher.allowed(mask)
        allowed = ids_of(mask)
        assert allowed.max() < tokenizer.vocab_size
        assert (tokenizer.eos_id in allowed) == matcher.complete
        drawn = int(allowed[rng.integers(len(allowed))])
        matcher.take(drawn)
        if drawn == tokenizer.eos_id:
            assert not matcher.allowed(mask)
            assert not mask.any()
            return tokenizer.decode(tokens)
        tokens.append(drawn)
    return None


def walks(form, tokenizer, count=SAMPLES):
    rng = np.random.default_rng(0)
    return [walk(form, tokenizer, rng) for _ in range(count)]


def is_person(x):
    """PERSON, written out."""
    return (
        {"name", "age", "mood"} <= set(x) <= set(PERSON["properties"])
        and isinstance(x["name"], str)
        and 1 <= len(x["name"]) <= 8
        and type(x["age"]) is int
        and 0 <= x["age"] <= 130
        and x["mood"] in ("good", None)
        and len(x.get("tags", [])) <= 3
        and all(tag in ("a", "b", None) for tag in x.get("tags", []))
        and -1 <= x.get("size", 0) < 2.5
    )


def is_list(x):
    while x is not None:
        if set(x) != {"v", "next"} or type(x["v"]) is not bool:
            return False
        x = x["next"]
    return True


@pytest.mark.parametrize("name", ["bpe", "byte"])
def test_every_walk_is_valid_json_of_the_schema(request, name):
    texts = walks(JsonSchema(PERSON), request.getfixturevalue(name))
    assert None not in texts
    people = [json.loads(text) for text in texts]
    assert all(map(is_person, people))
    # Everything that is optional or a choice occurs: valid because it had to be, not because little was possible.
    assert {frozenset(x) >= {"tags", "size"} for x in people} == {True, False}
    assert {x["mood"] for x in people} == {"good", None}
    assert len(set(texts)) > 900


def test_a_schema_may_hold_itself(bpe):
    found = [json.loads(text) for text in walks(JsonSchema(LIST), bpe)]
    assert all(map(is_list, found))
    assert any(x["next"] for x in found)


@pytest.mark.parametrize("name", ["bpe", "byte"])
def test_any_object(request, name):
    texts = walks(JsonObject(), request.getfixturevalue(name), 100)
    done = [text for text in texts if text is not None]
    assert len(done) > 95  # a uniform walk is in no hurry to close a text
    assert all(isinstance(json.loads(text), dict) for text in done)


@pytest.mark.parametrize(
    "pattern", [r"[a-c]{2,3}\.(x|yz)?", r"-?[0-9]{1,3}", "^(yes|no)$", "é?你.", "a|ab|abc", r"/\"'\\\n", ""]
)
def test_every_walk_is_matched_as_a_whole(bpe, byte, pattern):
    for tokenizer in (bpe, byte):
        texts = walks(Regex(pattern), tokenizer, 500)
        assert all(re.fullmatch(pattern, text) for text in texts)


def test_a_choice_is_exact_and_every_option_is_reached(bpe, byte):
    options = ("yes", "no", "yes, but", ".*", 'a "b"\\\n{}', "你好")
    for tokenizer in (bpe, byte):
        assert set(walks(Choice(options), tokenizer)) == set(options)


def test_blanks_between_the_parts_of_json_come_to_an_end(byte):
    """A model that loves blanks gets no further than a line's indentation."""
    matcher = JsonObject().begin(byte, byte.vocab_size)
    mask = np.empty(-(-byte.vocab_size // 32), np.uint32)
    matcher.take(byte.encode("{")[0])
    (blank,) = byte.encode(" ")
    taken = 0
    while matcher.allowed(mask) and blank in ids_of(mask):
        matcher.take(blank)
        taken += 1
    assert 30 < taken <= 40


def test_only_the_end_may_follow_a_form_that_nothing_can_be_added_to(bpe):
    matcher = Choice(("no",)).begin(bpe, bpe.vocab_size)
    mask = np.empty(-(-bpe.vocab_size // 32), np.uint32)
    for token in bpe.encode("no"):
        assert matcher.allowed(mask)
        assert bpe.eos_id not in ids_of(mask)
        matcher.take(token)
    assert matcher.allowed(mask)
    assert ids_of(mask).tolist() == [bpe.eos_id]


def test_special_tokens_are_no_part_of_a_text(bpe):
    """`<|im_start|>` spelt inside a JSON string would be six harmless tokens; the token itself is never allowed."""
    matcher = JsonSchema({"type": "string"}).begin(bpe, bpe.vocab_size)
    mask = np.empty(-(-bpe.vocab_size // 32), np.uint32)
    matcher.take(bpe.encode('"')[0])
    matcher.allowed(mask)
    assert not set(ids_of(mask)) & set(bpe.special_ids.values())
    for token in bpe.encode("<|im_start|>"):
        matcher.take(token)


def test_answers_do_not_see_one_another(bpe):
    form = Regex("ab")
    one, other = form.begin(bpe, bpe.vocab_size), form.begin(bpe, bpe.vocab_size)
    one.take(bpe.encode("a")[0])
    with pytest.raises(ValueError, match="was not allowed"):
        other.take(bpe.encode("b")[0])
    one.take(bpe.encode("b")[0])
    assert one.complete


def test_a_tokenizer_is_read_once(bpe, monkeypatch):
    Regex("x").begin(bpe, bpe.vocab_size)
    monkeypatch.setattr(type(bpe), "spelling", lambda self: pytest.fail("read again"))
    Regex("some other x").begin(bpe, bpe.vocab_size)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (JsonSchema({"type": "strin"}), "the JSON schema cannot be used: Invalid type: strin"),
        (JsonSchema({"not": {}}), "the keyword 'not' at # is not supported"),
        (JsonSchema({"properties": {"a": {"typ": 1}}}), "the keyword 'typ' at #/properties/a is not supported"),
        (JsonSchema({"items": [{"anyOf": [{"nullable": True}]}]}), "at #/items/0/anyOf/0 is not supported. Write"),
        (JsonSchema({"x-guidance": {"lenient": True}}), "the keyword 'x-guidance' at # is not supported"),
        (JsonSchema({"format": "nope"}), "Unknown format: nope"),
        (JsonSchema({"$ref": "#/gone"}), "Pointer '/gone' does not exist"),
        (JsonSchema({"$ref": "https://example.org/x"}), "does not fetch resources"),
        (JsonSchema({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "oneOf constraints are not supported"),
        (JsonSchema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum (5) is greater than maximum (3)"),
        (JsonSchema({"type": "string", "pattern": "(?=a)b"}), "look-around, including look-ahead"),
        (JsonSchema({"const": float("nan")}), "the JSON schema is no JSON"),
        (JsonSchema({"const": json.loads("[" * 300 + "]" * 300)}), "recursion limit exceeded"),
        (JsonSchema([]), "the JSON schema must be an object, not list"),
        (Regex("a("), "the regular expression cannot be used"),
        (Regex(r"(a)\1"), "backreferences are not supported"),
        (Regex("a{2,1}"), "invalid repetition count range"),
        (Choice(()), "give one or more texts that are not empty"),
        (Choice(("a", "")), "give one or more texts that are not empty"),
        (Choice("ab"), "give one or more texts that are not empty"),
    ],
)
def test_what_is_no_form_is_refused_with_the_reason(bpe, form, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        form.begin(bpe, bpe.vocab_size)


def test_a_schema_of_absurd_depth_is_refused(bpe):
    schema = {"type": "null"}
    for _ in range(39):
        schema = {"prefixItems": [schema], "type": "array", "minItems": 1}
    JsonSchema(schema).begin(bpe, bpe.vocab_size)
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(ConfigError, match="nested deeper than 40"):
        JsonSchema(schema).begin(bpe, bpe.vocab_size)


def test_a_mask_of_another_size_is_refused(bpe):
    matcher = Regex("a").begin(bpe, bpe.vocab_size)
    with pytest.raises(ValueError, match="the mask must be uint32"):
        matcher.allowed(np.zeros(3, np.uint32))
    with pytest.raises(ConfigError, match="the model's vocab_size is 100"):
        Regex("a").begin(bpe, 100)


def test_without_the_library_the_command_to_install_it_is_named(bpe, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=re.escape(constraints.INSTALL)):
        Regex("never compiled before").begin(bpe, bpe.vocab_size)


def test_forms_import_neither_jax_nor_the_library():
    code = "import sys, jaxpo.sampling.constraints; sys.exit(bool({'jax', 'llguidance'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
