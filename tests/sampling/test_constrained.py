"""Answers of a given form by the engine: a model of noise has no choice but to write them."""

import dataclasses
import json

import pytest

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError
from jaxpo.sampling.constraints import Choice, JsonSchema, Regex
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY, Sampler

pytest.importorskip("llguidance")

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "size": {"type": "integer", "minimum": 0, "maximum": 9999},
        "kind": {"enum": ["town", "city", None]},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(['{"name": "Ulm", "size": 12, "kind": "town"} naïve 你好 yes no'] * 3, 320)


@pytest.fixture(scope="module")
def engine(tokenizer, model):
    """Weights of noise, more rows of the vocabulary than the tokenizer has ids."""
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size + 20)
    params = model.randomised(config, 1)
    return Engine(params, config, tokenizer=tokenizer, slots=64, context=224, page=16, one_shape=True)


def is_city(x):
    return (
        {"name", "kind"} <= set(x) <= {"name", "size", "kind"}
        and 1 <= len(x["name"]) <= 6
        and (type(x.get("size", 0)) is int and 0 <= x.get("size", 0) <= 9999)
        and x["kind"] in ("town", "city", None)
    )


@pytest.mark.slow
def test_a_thousand_samples_of_noise_are_valid(engine):
    request = Request([1], n=1000, sampler=Sampler(), max_new_tokens=208, constraint=JsonSchema(CITY))
    found = engine.generate([request])
    cut = [g for g in found if g.reason == "length"]
    whole = [g for g in found if g.reason == "stop_id"]
    assert len(cut) + len(whole) == 1000
    assert len(cut) < 20  # blanks, of which noise puts up to 40 in every place
    assert all(is_city(json.loads(g.text)) for g in whole)
    assert len({g.text for g in whole}) > 900


@pytest.mark.parametrize(
    "sampler", [Sampler(), Sampler(temperature=0.5, top_k=3), GREEDY], ids=["plain", "top", "greedy"]
)
def test_samplers_choose_among_what_is_allowed(engine, sampler):
    found = engine.generate(
        [
            Request([1], n=8, sampler=sampler, max_new_tokens=208, constraint=JsonSchema(CITY)),
            Request([1, 2], n=8, sampler=sampler, max_new_tokens=40, constraint=Regex("[a-f]{3}-[0-9]{2}")),
            Request([1, 3], n=8, sampler=sampler, max_new_tokens=40, constraint=Choice(("yes", "no", "yes, but"))),
            Request([1, 4], n=2, sampler=sampler, max_new_tokens=12, stop_ids=()),
        ]
    )
    assert all(is_city(json.loads(g.text)) for g in found[:8] if g.reason == "stop_id")
    assert all(g.reason == "stop_id" for g in found[8:24])
    assert all(len(g.text) == 6 and g.text[3] == "-" for g in found[8:16])
    assert all(g.text in ("yes", "no", "yes, but") for g in found[16:24])
    assert [len(g.tokens) for g in found[24:]] == [12, 12]  # the neighbours are free


def test_an_answer_without_stop_ids_ends_with_its_form(engine):
    (found,) = engine.generate([Request([1], max_new_tokens=40, stop_ids=(), constraint=Choice(("yes",)))])
    assert (found.text, found.reason) == ("yes", "stop_id")


def test_log_probs_are_of_the_allowed_and_of_all(engine):
    """Where one token is allowed it is certain; the model's own log-prob is what it would be without the form."""
    (found,) = engine.generate([Request([1], max_new_tokens=40, constraint=Choice(("no",)))])
    assert found.text == "no"
    assert found.sampling_logps[-1] == pytest.approx(0.0, abs=1e-5)
    assert found.logps[-1] < -0.5


def test_forms_that_are_none_are_refused_before_anything_runs(engine, tokenizer):
    good = Request([1], max_new_tokens=4)
    bad = Request([1], max_new_tokens=4, constraint=Regex("a("))
    for ask in (lambda: engine.submit(bad), lambda: engine.generate([good, bad])):
        with pytest.raises(ConfigError, match="unclosed group"):
            ask()
        assert not engine.busy
    first, second = tokenizer.encode("a"), tokenizer.encode("x")
    forced = Request([1], max_new_tokens=8, forced_ids=(*first, *second), constraint=Regex("[a-f][x-z]{3}"))
    assert engine.generate([forced])[0].text[:2] == "ax"
    with pytest.raises(ConfigError, match=r"forced_ids\[1\] is .* which the constraint does not allow there"):
        engine.submit(dataclasses.replace(forced, constraint=Regex("[a-f]{3}")))


def test_a_form_that_cannot_be_followed_ends_its_row_alone(engine):
    class Tangled:
        """A form whose matcher gives up at the second token."""

        def begin(self, tokenizer, vocabulary):
            self.seen = 0
            return self

        def allowed(self, out):
            if self.seen:
                raise ConfigError("too tangled")
            out[:] = 0xFFFFFFFF
            return True

        def take(self, token):
            self.seen += 1

    lost, fine = engine.generate(
        [
            Request([1], max_new_tokens=9, stop_ids=(), constraint=Tangled()),
            Request([1], max_new_tokens=9, stop_ids=()),
        ]
    )
    assert (lost.reason, lost.error, len(lost.tokens)) == ("error", "too tangled", 1)
    assert (fine.reason, len(fine.tokens)) == ("length", 9)
