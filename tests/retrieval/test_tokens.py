"""Tokens of queries and documents: prefixes, expansion, lengths, the words that are skipped."""

import dataclasses
import json

import numpy as np
import pytest

from jaxpo.config import Data, Texts
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.retrieval import canonical_retrieval
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.data.tokens.retrieval import text_encoder
from jaxpo.errors import ConfigError, DataError

NEEDS = Needs(roles=("query", "candidate"), per_token=("key", "scored"))
SCORED = dataclasses.replace(NEEDS, columns=("scores",))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a small text about nothing, at all. (really!)"] * 3, 300).with_added(("[Q] ", "[D] "))


def test_a_query_is_bos_prefix_text_and_expansion(tokenizer):
    encoder = text_encoder(tokenizer, Texts(query_length=10))
    query, _ = tokenizer.id_of("[Q] "), tokenizer.id_of("[D] ")
    text = tokenizer.encode("a text")
    (got,) = encoder.queries(["a text"])
    n = 2 + len(text)
    np.testing.assert_array_equal(got.tokens, [1, query, *text, *[7] * (10 - n)])
    np.testing.assert_array_equal(got.key, np.arange(10) < n)
    assert got.scored.all()
    long = "nothing " * 40
    (got,) = encoder.queries([long])
    np.testing.assert_array_equal(got.tokens, [1, query, *tokenizer.encode(long)[:8]])
    assert got.key.all()
    (seen,) = text_encoder(tokenizer, Texts(query_length=10, attend_to_expansion=True)).queries(["a"])
    assert seen.key.all()
    (plain,) = text_encoder(tokenizer, Texts(expansion=False)).queries(["a text"])
    assert len(plain.tokens) == n


def test_a_document_skips_words_that_stand_alone(tokenizer):
    encoder = text_encoder(tokenizer, Texts(document_length=9, skip=(",", "!", "nothing like it")))
    assert encoder.unskippable == ("nothing like it",)
    (got,) = encoder.documents(["!,a"])
    np.testing.assert_array_equal(got.tokens[:2], [1, tokenizer.id_of("[D] ")])
    bare = np.isin(got.tokens, [tokenizer.id_of(","), tokenizer.id_of("!")])
    assert bare.any()
    np.testing.assert_array_equal(got.scored, ~bare)
    (long,) = encoder.documents(["text " * 30])
    assert len(long.tokens) == 9


def test_a_prefix_as_text_and_a_vocabulary_without_the_prefixes(tokenizer):
    texts = Texts(query_prefix="", document_prefix="", query_text="query: ", expansion=False)
    (got,) = text_encoder(tokenizer, texts).queries(["a"])
    np.testing.assert_array_equal(got.tokens, [1, *tokenizer.encode("query: a")])
    plain = train_tokenizer(["a"], 280)
    with pytest.raises(ConfigError, match=r"--tokenizer\.added"):
        text_encoder(plain, Texts())
    assert plain.with_added(("[Q] ",)).with_added(("[Q] ",)).vocab_size == plain.vocab_size + 1


def prepared(tmp_path, tokenizer, rows, needs=NEEDS, **settings):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    data = Data(max_length=64, row_length=64, texts=Texts(query_length=8, document_length=16), **settings)
    return prepare(
        [file], data=data, tokenizer=tokenizer, purpose="preference", needs=needs, cache_dir=tmp_path, log=lambda _: 0
    )


FORMS = {
    "triplet": {"anchor": "a", "positive": "b c", "negative": "d"},
    "numbered": {"query": "a", "positive": "b c", "negative_2": "e", "negative_1": "d"},
    "list": {"query": "a", "positive": "b c", "negatives": ["d", "e"]},
    "pair": {"query": "a", "positive": "b c"},
    "scored": {"query": "a", "documents": ["b c", "d", "e"], "scores": [3, 1, 2]},
    "labelled": {"query": "a", "documents": ["b c", "d"], "labels": [1, 0]},
    "sentences": {"sentence1": "a", "sentence2": "b c", "score": 0.5},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_rows(tmp_path, tokenizer, form):
    row = FORMS[form]
    dataset = prepared(tmp_path, tokenizer, [row], SCORED if form in ("scored", "labelled", "sentences") else NEEDS)
    (example,) = dataset.store.read(range(1))
    texts = {"triplet": "b c,d", "numbered": "b c,d,e", "list": "b c,d,e", "pair": "b c", "scored": "b c,d,e",
             "labelled": "b c,d", "sentences": "b c"}[form].split(",")  # fmt: skip
    encoder = text_encoder(tokenizer, Texts(query_length=8, document_length=16))
    np.testing.assert_array_equal(example.segments[0].tokens, encoder.queries(["a"])[0].tokens)
    for segment, wanted in zip(example.segments[1:], encoder.documents(texts), strict=True):
        np.testing.assert_array_equal(segment.tokens, wanted.tokens)
        np.testing.assert_array_equal(segment.per_token["scored"], wanted.scored)
    assert example.roles == {"query": 0, "candidate": list(range(1, len(texts) + 1))}
    assert len(example.columns["document"]) == len(texts)


def test_of_two_columns_of_scores_one_is_read_and_the_other_is_told():
    found = canonical_retrieval({"query": "a", "documents": ["b"], "labels": [2], "label": [1]})
    assert found == {"query": "a", "documents": ["b"], "scores": [2], "label": [1]}
    assert canonical_retrieval({"query": "a", "documents": ["b"], "scores": [3], "label": [1]})["scores"] == [3]


BAD = {
    "no query": ({"query": " ", "positive": "b"}, "query is empty"),
    "no positive": ({"query": "a", "positive": ""}, "positive document is empty"),
    "empty document": ({"query": "a", "documents": ["b", ""], "scores": [1, 2]}, "document 1 is empty"),
    "positive among negatives": ({"query": "a", "positive": "b", "negative": "b"}, "negative document is the positive"),
    "score missing": ({"query": "a", "documents": ["b", "c"], "scores": [1, None]}, "2 documents but 1 scores"),
    "ragged": ({"query": "a", "documents": ["b", "c"], "scores": [1]}, "2 documents but 1 scores"),
    "punctuation": ({"query": "a", "positive": "b", "negatives": [3]}, "document 0 is int"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named(tmp_path, tokenizer, case):
    row, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        prepared(tmp_path, tokenizer, [row])
    assert error.value.row == 1


def test_lists_of_unequal_length_and_a_query_of_punctuation_only(tmp_path, tokenizer):
    rows = [FORMS["scored"], {"query": "?!", "documents": ["x"], "scores": [1]}]
    dataset = prepared(tmp_path, tokenizer, rows, SCORED)
    assert [example.roles["candidate"] for example in dataset.store.read(range(2))] == [[1, 2, 3], [1]]
    assert dataset.roles["candidate"] == 3


def test_other_stages_do_not_read_such_rows_and_retrieval_no_others(tmp_path, tokenizer):
    with pytest.raises(DataError, match="are for retrieval"):
        prepared(tmp_path, tokenizer, [FORMS["scored"]], Needs(roles=("candidate",), columns=("scores",)))
    with pytest.raises(DataError, match="nothing for retrieval"):
        prepared(tmp_path, tokenizer, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
