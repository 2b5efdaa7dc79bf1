"""From text to text: prompts, stop strings, streaming."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from jaxpo.data.chat.chat import render, text_of
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError, RunError
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY
from jaxpo.sampling.text import encode_prompt, requests_for, stream

WORDS = "the quick brown fox jumps over the lazy dog, naïve café 你好 and so on. "
CHAT = [{"role": "user", "content": "What does the fox do?"}]
NEW = 40
SMALL = {"slots": 4, "context": 128, "rounds": 4, "page": 16, "together": 64, "one_shape": True}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS * 3], 300)


@pytest.fixture(scope="module")
def engine(tokenizer, model):
    """Of a model with more rows than the tokenizer has ids."""
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size + 20)
    return Engine(model.randomised(config, 1), config, tokenizer=tokenizer, **SMALL)


def asked(tokenizer, *prompts, **fields):
    return requests_for(tokenizer, prompts, Request((), **{"max_new_tokens": NEW, "seed": 5, **fields}))


@pytest.fixture(scope="module")
def answer(engine, tokenizer):
    return engine.generate(asked(tokenizer, "the fox", CHAT, n=2))


def test_text_starts_with_bos_and_a_conversation_ends_with_an_open_turn(tokenizer):
    assert encode_prompt(tokenizer, "the fox") == [tokenizer.bos_id, *tokenizer.encode("the fox")]
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_id]
    ids = encode_prompt(tokenizer, CHAT)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text_of(render(CHAT, add_generation_prompt=True))
    assert ids.count(tokenizer.bos_id) == 1


def test_requests_have_the_template_s_fields_and_numbers(tokenizer):
    found = requests_for(tokenizer, ["the fox", CHAT], Request((), n=3, seed=9), numbers=[7, 4])
    assert [(r.n, r.seed, r.number) for r in found] == [(3, 9, 7), (3, 9, 4)]
    assert [r.prompt for r in found] == [encode_prompt(tokenizer, "the fox"), encode_prompt(tokenizer, CHAT)]
    assert [r.number for r in asked(tokenizer, "a", "b")] == [0, 1]


def test_answers_come_in_order_with_their_text(answer, tokenizer):
    assert [(a.request, a.sample) for a in answer] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for a in answer:
        assert a.text == tokenizer.decode(a.tokens)
        assert max(a.tokens) < tokenizer.vocab_size
        assert len(a.tokens) == len(a.logps) == len(a.sampling_logps)
        assert a.reason == ("stop_id" if a.tokens[-1] == tokenizer.eos_id else "length")


def middle(text):
    """Three characters in a row of an answer's text, none of them unfinished."""
    return next(text[i : i + 3] for i in range(3, len(text)) if "�" not in text[i : i + 3])


def test_a_stop_string_ends_the_answer_and_is_cut(engine, tokenizer, answer):
    whole = answer[2]
    stop = middle(whole.text)
    (cut,) = engine.generate([replace(asked(tokenizer, CHAT, stop=(stop,))[0], number=1)])
    assert cut.reason == "stop_string"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert stop in tokenizer.decode(cut.tokens)
    assert stop not in tokenizer.decode(cut.tokens[:-1])
    np.testing.assert_allclose(cut.logps, whole.logps[: len(cut.tokens)], atol=1e-5)


def spelling(tokenizer, text, **fields):
    """A request whose answer is this text, whatever the model would say."""
    ids = tokenizer.encode(text)
    return Request(encode_prompt(tokenizer, CHAT), max_new_tokens=len(ids), forced_ids=tuple(ids), **fields)


def test_the_earliest_of_several_stop_strings_counts(engine, tokenizer):
    stops = (("dog", "lazy"), ("cat",), ("x" * 99,))
    requests = [spelling(tokenizer, "over the lazy dog", stop=stop) for stop in stops]
    assert [(g.text, g.reason) for g in engine.generate(requests)] == [
        ("over the ", "stop_string"),
        ("over the lazy dog", "length"),
        ("over the lazy dog", "length"),
    ]


@pytest.mark.parametrize("stop", [(), ("take the stop from the answer",)])
def test_streaming_gives_the_same_text(engine, tokenizer, answer, stop):
    stop = (middle(answer[2].text),) if stop else ()
    request = replace(asked(tokenizer, CHAT, stop=stop)[0], number=1)
    (want,) = engine.generate([request])
    pieces = list(stream(engine, request))
    assert "".join(pieces) == want.text
    assert all(pieces)
    assert len(pieces) > 1


@pytest.mark.parametrize("stop", ["lazy dog", "naïve", "好 and"])
def test_streaming_holds_back_what_may_become_a_stop_string(engine, tokenizer, stop):
    text = WORDS[:63]
    pieces = list(stream(engine, spelling(tokenizer, text, stop=(stop,))))
    assert "".join(pieces) == text[: text.index(stop)]
    assert len(pieces) > 1
    assert "�" not in "".join(pieces)


def test_streaming_shows_an_unfulfilled_beginning_in_the_end(engine, tokenizer):
    pieces = list(stream(engine, spelling(tokenizer, "over the lazy", stop=("lazy dog",))))
    assert "".join(pieces) == "over the lazy"


def test_who_stops_listening_frees_the_slot(engine, tokenizer):
    pieces = stream(engine, asked(tokenizer, CHAT, sampler=GREEDY)[0])
    next(pieces)
    pieces.close()
    assert [g.reason for g in engine.step()] == ["cancelled"]
    assert not engine.busy


def test_an_answer_that_ends_in_an_error_is_told(engine, tokenizer, model):
    params = model.randomised(engine.config, 1)
    params["embedding_norm"] = {"weight": params["embedding_norm"]["weight"].at[0].set(np.nan)}
    broken = Engine(params, engine.config, tokenizer=tokenizer, **SMALL)
    with pytest.raises(RunError, match="not finite"):
        list(stream(broken, asked(tokenizer, CHAT)[0]))


def test_bad_requests(engine, tokenizer, model):
    small = dataclasses.replace(model.config, vocab_size=100)
    with pytest.raises(ConfigError, match="model's vocab_size is 100"):
        Engine(model.params, small, tokenizer=tokenizer)
    for stop in ("text", ("",)):
        with pytest.raises(ConfigError, match="give a list of non-empty strings"):
            engine.submit(asked(tokenizer, "a", stop=stop)[0])
    with pytest.raises(ConfigError, match="conversation without messages"):
        asked(tokenizer, [])
    with pytest.raises(ConfigError, match=r"the prompt has .* tokens and the context is 128"):
        list(stream(engine, asked(tokenizer, WORDS * 30)[0]))
