"""Long texts are encoded in pieces, with the ids of the whole."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from jaxpo.data.tokenizer import long_text
from jaxpo.data.tokenizer.long_text import ALL, SPACES, encode_texts, pieces_of, places_of
from jaxpo.data.tokenizer.tokenizer import SPLIT_PATTERN

# What the pattern treats differently, each often enough to meet every other.
KINDS = [
    *(
        "a",
        "Z",
        "é",
        "ſ",
        "漢",
        "か",
        "한",
        "ー",
        "々",
        "٣",
        "7",
        "Ⅷ",
        "\U000323b0",
        "\u0378",
        "\u0301",
        "😀",
        "👨\u200d👩",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\r\n",
        "\n\n ",
        "\t",
        "\u00a0",
        "\u2028",
        "\u3000",
        "\x1c",
        "\u180e",
        "\u200b",
        "\ufeff",
        "\x00",
    ),
    *("'s", "'LL", "'ſ", ".", "...", "。", "，", "！", "<|im_end|>"),
]
MIXED = st.lists(st.sampled_from(KINDS) | st.text(max_size=3), max_size=60).map("".join)


def ids_in_pieces(tokenizer, text, size):
    return [i for piece in pieces_of(text, ALL, size) for i in tokenizer.encode(piece)]


@settings(max_examples=300, deadline=None)
@given(text=MIXED, size=st.integers(1, 8))
def test_pieces_have_the_ids_of_the_whole(tokenizer, text, size):
    assert "".join(pieces_of(text, ALL, size)) == text
    assert ids_in_pieces(tokenizer, text, size) == tokenizer.encode(text)


def test_places_of_the_pattern_itself(tokenizer):
    """Without the merges, which could hide a cut that is wrong: the splits themselves are the same."""
    split = tokenizer._inner.pre_tokenizer[0]
    random.seed(0)
    for _ in range(300):
        text = "".join(random.choices(KINDS, k=40))
        pieces = [word for piece in pieces_of(text, ALL, 2) for word, _ in split.pre_tokenize_str(piece)]
        assert pieces == [word for word, _ in split.pre_tokenize_str(text)], text


def test_most_texts_can_be_cut_often():
    for words in (
        "The quick brown fox. ",
        "机器学习，很有趣。",
        "слово за словом, ",
        "line of code();\nx = 1\n",
        "aGVsbG8gd29ybGQ4",
    ):
        assert len(list(pieces_of(words * 500, ALL, 50))) > 60, words


def test_many_and_long_texts_come_back_in_order(tokenizer, monkeypatch):
    monkeypatch.setattr(long_text, "PIECE", 40)
    monkeypatch.setattr(long_text, "TOGETHER", 100)
    texts = [
        "",
        "short",
        "The quick brown fox jumps over the lazy dog. " * 30,
        " ",
        "x" * 500,
        "机器学习，很有趣。" * 40,
    ]
    found = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert {ids.dtype for ids in found} == {np.dtype(np.int32)}
    assert tokenizer.encode_batch([]) == []


def changed(tokenizer, change):
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    change(inner)
    return inner


def set_split(pattern, behavior="isolated", **settings):
    def change(inner):
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior=behavior)
        level = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **settings})
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, level])

    return change


OTHERS = {
    "another pattern": set_split(r"\s+|\S+ ?"),
    "another behaviour": set_split(SPLIT_PATTERN, "merged_with_next"),
    "a space before the text": set_split(SPLIT_PATTERN, add_prefix_space=True),
    "a second split": set_split(SPLIT_PATTERN, use_regex=True),
    "byte level alone": lambda inner: setattr(inner, "pre_tokenizer", pre_tokenizers.ByteLevel()),
    "no split": lambda inner: setattr(inner, "pre_tokenizer", None),
    "a normaliser": lambda inner: setattr(inner, "normalizer", normalizers.NFC()),
    "dropout": lambda inner: setattr(inner.model, "dropout", 0.1),
    "no byte pairs": lambda inner: setattr(inner, "model", models.WordLevel({"a": 0}, "a")),
    "a token over a place": lambda inner: inner.add_tokens(["New York"]),
    "a token that eats spaces": lambda inner: inner.add_tokens([tokenizers.AddedToken("mark", lstrip=True)]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tokenizers_are_not_cut(tokenizer, name):
    assert places_of(tokenizer._inner, SPLIT_PATTERN) is ALL
    assert places_of(changed(tokenizer, OTHERS[name]), SPLIT_PATTERN) is None


def test_tokens_that_are_found_in_texts_are_not_cut(tokenizer):
    for token, places in (("<|speaker|>", SPACES), ("word", ALL)):
        inner = changed(tokenizer, lambda inner, token=token: inner.add_tokens([token]))
        assert places_of(inner, SPLIT_PATTERN) is places
        text = f"It is{token} and {token}. " * 3
        pieces = [i for piece in pieces_of(text, places, 1) for i in inner.encode(piece, add_special_tokens=False).ids]
        assert pieces == inner.encode(text, add_special_tokens=False).ids


def test_an_uncut_tokenizer_gives_the_ids_of_the_whole(tokenizer):
    inner = changed(tokenizer, OTHERS["a token over a place"])
    text = "It is in New York. " * 8_000
    assert encode_texts(inner, [text], None)[0].tolist() == inner.encode(text, add_special_tokens=False).ids
