"""LFM2's split pattern and special ids; round trips; nothing in a text can forge a special token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer, check_vocabulary, train_tokenizer
from jaxpo.errors import ConfigError, DataError


def pre_tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [piece.replace("Ġ", " ") for piece, _ in tokenizer._inner.pre_tokenizer.pre_tokenize_str(text)]


def test_special_ids_are_lfm2s(tokenizer):
    assert [tokenizer.special_ids[token] for token in SPECIAL_TOKENS] == list(range(14))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 7)
    assert SPECIAL_TOKENS[6] == "<|im_start|>"
    assert SPECIAL_TOKENS[13] == "<|tool_response_end|>"


def test_split_pattern(tokenizer):
    assert pre_tokens(tokenizer, "84721") == ["847", "21"]
    assert pre_tokens(tokenizer, " 1234") == [" ", "123", "4"]
    assert pre_tokens(tokenizer, "I'LL go") == ["I", "'LL", " go"]


def test_reserved_tokens_follow_the_fixed_ones():
    tokenizer = train_tokenizer(["some text, some text"] * 3, 14 + 256 + 3 * 64)
    assert [tokenizer._inner.token_to_id(f"<|reserved_{n}|>") for n in (4, 5, 6)] == [14, 15, 16]
    assert tokenizer._inner.token_to_id("<|reserved_7|>") is None


def test_training_is_deterministic(files):
    texts = [p.read_text() for p in sorted(files.glob("*.jsonl"))]
    assert train_tokenizer(texts, 400).hash == train_tokenizer(iter(texts), 400).hash


@given(st.text(max_size=200))
def test_round_trip_of_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream()
    assert "".join(stream.feed(i) for i in ids) + stream.finish() == text
    assert not set(ids) & set(range(14))


def test_round_trip_of_real_languages(shared_data, tokenizer):
    texts = [p.read_text(encoding="utf-8") for p in sorted((shared_data / "text").glob("*.txt"))]
    assert len(texts) >= 19
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert ids.tolist() == tokenizer.encode(text)


def test_special_tokens_in_a_text_are_ordinary_characters(tokenizer):
    for token in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a{token}b")
        assert not set(ids) & set(range(14)), token
        assert tokenizer.decode(ids) == f"a{token}b"


def test_stream_holds_back_incomplete_characters(tokenizer):
    ids = tokenizer.encode("🦀")
    assert len(ids) == 4, "an emoji that was not trained on takes one token per byte"
    stream = tokenizer.stream()
    assert [stream.feed(i) for i in ids] == ["", "", "", "🦀"]
    assert stream.feed(ids[0]) == ""
    assert stream.finish() == "\ufffd"


def test_stream_skips_special_tokens_unless_asked(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.eos_id]
    plain, full = tokenizer.stream(), tokenizer.stream(skip_special_tokens=False)
    assert "".join(plain.feed(i) for i in ids) == "hi" == tokenizer.decode(ids)
    assert "".join(full.feed(i) for i in ids) == "<|startoftext|>hi<|im_end|>"


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer.load(path).hash == tokenizer.hash
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        "<|startoftext|>",
        "<|im_end|>",
        "<|pad|>",
    )
    assert "<|im_start|>" in config["chat_template"] == (tmp_path / "chat_template.jinja").read_text()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size=200 is below 270 \(14 special tokens \+ 256 bytes\)"):
        train_tokenizer(["text"], 200)


def test_vocabulary_larger_than_the_models(tokenizer):
    check_vocabulary(tokenizer, tokenizer.vocab_size)
    with pytest.raises(ConfigError, match=r"has 512 ids but the model's vocab_size is 511: raise the model's"):
        check_vocabulary(tokenizer, 511)


def test_files_that_are_no_tokenizer(tmp_path: Path, tokenizer):
    with pytest.raises(DataError, match=r"absent/tokenizer.json: no such tokenizer|absent: no such tokenizer"):
        Tokenizer.load(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(DataError, match=r"tokenizer.json: not a tokenizer.json"):
        Tokenizer.load(tmp_path)
    state = json.loads(tokenizer._inner.to_str())
    for entry in state["added_tokens"]:
        if entry["content"] == "<|im_end|>":
            entry["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"<\|im_end\|> is not marked special, so a user's text could forge it"):
        Tokenizer.load(tmp_path)
    foreign = tokenizer._inner.to_str().replace("<|im_end|>", "<|eot|>")
    (tmp_path / "tokenizer.json").write_text(foreign)
    with pytest.raises(DataError, match=r"the vocabulary has no <\|im_end\|>"):
        Tokenizer.load(tmp_path)
