"""From text to text: prompts, stop strings, streaming."""

import dataclasses

import numpy as np
import pytest

from jaxpo.data.chat.chat import render, text_of
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import cut_text, encode_prompt, generate_text, stream_text

WORDS = "the quick brown fox jumps over the lazy dog, naïve café 你好 and so on. "
CHAT = [{"role": "user", "content": "What does the fox do?"}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS * 3], 300)


@pytest.fixture(scope="module")
def speaker(tokenizer, model):
    """A model with more rows than the tokenizer has ids."""
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size + 20)
    return model.randomised(config, 1), config


@pytest.fixture(scope="module")
def answer(speaker, tokenizer):
    return generate_text(*speaker, tokenizer, ["the fox", CHAT], max_new_tokens=40, sampler=Sampler(), n=2, seed=5)


def test_text_starts_with_bos_and_a_conversation_ends_with_an_open_turn(tokenizer):
    assert encode_prompt(tokenizer, "the fox") == [tokenizer.bos_id, *tokenizer.encode("the fox")]
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_id]
    ids = encode_prompt(tokenizer, CHAT)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text_of(render(CHAT, add_generation_prompt=True))
    assert ids.count(tokenizer.bos_id) == 1


def test_answers_come_in_order_with_their_text(answer, tokenizer):
    assert [(a.prompt, a.sample) for a in answer] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for a in answer:
        assert a.text == tokenizer.decode(a.tokens)
        assert max(a.tokens) < tokenizer.vocab_size
        assert len(a.tokens) == len(a.logps) == len(a.sampling_logps)
        assert a.reason == ("stop_id" if a.tokens[-1] == tokenizer.eos_id else "length")


def test_a_stop_string_ends_the_answer_and_is_cut(speaker, tokenizer, answer):
    whole = answer[0]
    stop = whole.text[6:9]
    (cut,) = generate_text(*speaker, tokenizer, ["the fox"], max_new_tokens=40, sampler=Sampler(), seed=5, stop=[stop])
    assert cut.reason == "stop_string"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert stop in tokenizer.decode(cut.tokens)
    assert stop not in tokenizer.decode(cut.tokens[:-1])
    np.testing.assert_allclose(cut.logps, whole.logps[: len(cut.tokens)], atol=1e-5)


def test_the_earliest_of_several_stop_strings_counts(tokenizer):
    ids = tokenizer.encode("over the lazy dog")
    assert cut_text(tokenizer, ids, ["dog", "lazy"])[0] == "over the "
    assert cut_text(tokenizer, ids, ["cat"]) == ("over the lazy dog", len(ids), False)


@pytest.mark.parametrize("stop", [(), ("take the stop from the answer",)])
def test_streaming_gives_the_same_text(speaker, tokenizer, answer, stop):
    stop = (answer[2].text[10:14],) if stop else ()
    options = {"max_new_tokens": 40, "sampler": Sampler(), "seed": 7, "stop": stop}
    (want,) = generate_text(*speaker, tokenizer, [CHAT], **options)
    pieces = list(stream_text(*speaker, tokenizer, CHAT, **options))
    assert "".join(pieces) == want.text
    assert all(pieces)


class Scripted:
    """Stands in for the compiled decoding: produces a given text, `STREAM_EVERY` tokens at a time."""

    def __init__(self, ids):
        self.tokens, self.lengths, self.finished = np.asarray([ids]), np.asarray([1]), np.asarray([False])

    def extend(self, params, state, until, **options):
        self.lengths = np.asarray([until])
        return self


@pytest.mark.parametrize("stop", ["lazy dog", "naïve", "好 and"])
def test_streaming_holds_back_what_may_become_a_stop_string(monkeypatch, speaker, tokenizer, stop):
    ids = tokenizer.encode(WORDS)
    scripted = Scripted(ids)
    monkeypatch.setattr("jaxpo.sampling.text.begin", lambda *a, **k: (scripted, {}))
    monkeypatch.setattr("jaxpo.sampling.text.decode.extend", scripted.extend)
    pieces = list(stream_text(*speaker, tokenizer, CHAT, max_new_tokens=len(ids), stop=[stop]))
    assert "".join(pieces) == WORDS[: WORDS.index(stop)]
    assert len(pieces) > 1
    assert "�" not in "".join(pieces)


def test_streaming_shows_an_unfulfilled_beginning_in_the_end(monkeypatch, speaker, tokenizer):
    ids = tokenizer.encode("over the lazy")
    scripted = Scripted(ids)
    monkeypatch.setattr("jaxpo.sampling.text.begin", lambda *a, **k: (scripted, {}))
    monkeypatch.setattr("jaxpo.sampling.text.decode.extend", scripted.extend)
    pieces = list(stream_text(*speaker, tokenizer, CHAT, max_new_tokens=len(ids), stop=["lazy dog"]))
    assert "".join(pieces) == "over the lazy"


def test_bad_requests(speaker, tokenizer):
    params, config = speaker
    small = dataclasses.replace(config, vocab_size=100)
    with pytest.raises(ConfigError, match="model's vocab_size is 100"):
        generate_text(params, small, tokenizer, ["a"], max_new_tokens=4)
    for stop in ("text", ("",)):
        with pytest.raises(ConfigError, match="give a list of non-empty strings"):
            generate_text(params, config, tokenizer, ["a"], max_new_tokens=4, stop=stop)
    with pytest.raises(ConfigError, match="conversation without messages"):
        generate_text(params, config, tokenizer, [[]], max_new_tokens=4)
    with pytest.raises(ConfigError, match=r"prompt 0 has .* tokens and the model's context is 256"):
        list(stream_text(params, config, tokenizer, WORDS * 30, max_new_tokens=4))
