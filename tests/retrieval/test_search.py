"""Search: exact scores in blocks, an index on disk, candidates of other libraries, an index of another model."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.evaluate.retrieval import search as module
from jaxpo.evaluate.retrieval.candidates import nearest, recall, search_candidates
from jaxpo.evaluate.retrieval.index import load_index, make_index, save_index
from jaxpo.evaluate.retrieval.search import all_scores, best, scores_of, search

RNG = np.random.default_rng(0)
LENGTHS = [3, 1, 0, 5, 2, 4, 0]


def unit(*shape):
    x = RNG.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


DOCUMENTS = [unit(n, 8) for n in LENGTHS]
QUERY = unit(4, 8)


def made(documents=DOCUMENTS, dtype="float32"):
    ids = [f"d{i}" for i in range(len(documents))]
    return make_index(documents, ids, [f"text {i}" for i in ids], {"model": "abc"}, dtype)


EXPECTED = [float((QUERY @ d.T).max(1).sum()) if len(d) else 0.0 for d in DOCUMENTS]


@pytest.mark.parametrize("block", [1, 4, 1 << 16])
def test_scores_of_all_documents_in_blocks(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    np.testing.assert_allclose(all_scores(made(), QUERY), EXPECTED, rtol=1e-5, atol=1e-6)


def test_scores_of_some_documents_and_the_best():
    places = np.array([5, 2, 0])
    np.testing.assert_allclose(scores_of(made(), QUERY, places), np.take(EXPECTED, places), rtol=1e-5)
    found = search(made(), QUERY, 3)
    np.testing.assert_array_equal(found.places, np.argsort(-np.asarray(EXPECTED), kind="stable")[:3])
    tied = best(np.arange(3), np.array([1.0, 2.0, 2.0]), 2)
    np.testing.assert_array_equal(tied.places, [1, 2])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_an_index_on_disk(tmp_path, dtype):
    index = made(dtype=dtype)
    save_index(index, tmp_path / "index")
    again = load_index(tmp_path / "index")
    np.testing.assert_array_equal(again.vectors, index.vectors)
    assert (again.ids, again.texts, again.about) == (index.ids, index.texts, index.about)
    np.testing.assert_allclose(all_scores(again, QUERY), EXPECTED, atol=3e-2 if dtype == "int8" else 5e-3)
    np.testing.assert_allclose(scores_of(again, QUERY, np.array([4, 0])), all_scores(again, QUERY)[[4, 0]], rtol=1e-5)
    whole = np.concatenate(DOCUMENTS)
    most = np.abs(whole).max(1, keepdims=True) / 254 if dtype == "int8" else 1e-3
    assert np.all(np.abs(again.floats() - whole) <= most * 1.001)


def test_an_index_of_another_model_is_refused():
    made().check_model("abc")
    with pytest.raises(ConfigError, match="of another model than runs/x"):
        made().check_model("def", "runs/x")


def test_what_is_no_index_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is no index"):
        load_index(tmp_path)
    save_index(made(), tmp_path)
    (tmp_path / "documents.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    with pytest.raises(CheckpointError, match="does not fit"):
        load_index(tmp_path)
    save_index(replace(made(dtype="int8"), scales=None), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_index(tmp_path)
    save_index(made(), tmp_path)
    whole = (tmp_path / "documents.jsonl").read_text()
    for broken in (whole.replace('"_id"', '"id"'), whole.replace('"text"', '"t"'), "1\n" * len(DOCUMENTS)):
        (tmp_path / "documents.jsonl").write_text(broken)
        with pytest.raises(CheckpointError, match="does not fit"):
            load_index(tmp_path)
    (tmp_path / "documents.jsonl").write_text(whole)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index.json is no object"):
        load_index(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_index(tmp_path)
    with pytest.raises(ConfigError, match="two documents have the id 'a'"):
        make_index(DOCUMENTS[:2], ["a", "a"], ["", ""], {}, "float32")


def test_candidates_are_ranked_by_their_exact_scores_and_their_recall_is_measured():
    index = made()
    exact = lambda query, n: np.argsort(-(query @ index.vectors.T), axis=1, kind="stable")[:, :n]  # noqa: E731
    found = search_candidates(index, exact, QUERY, 3, each=2)
    np.testing.assert_allclose(found.scores, np.take(EXPECTED, found.places), rtol=1e-5)
    assert recall(index, exact, [QUERY], 5, each=15) == 1
    assert recall(index, lambda query, n: np.full((4, 1), -1), [QUERY], 5) == 0


@pytest.mark.parametrize(("library", "package"), [("faiss", "faiss"), ("usearch", "usearch")])
def test_libraries_of_neighbours(library, package):
    documents = [unit(6, 16) for _ in range(200)]
    index = made(documents)
    try:
        importlib.import_module(package)
    except ImportError:
        with pytest.raises(ConfigError, match="pip install"):
            nearest(index, library)
        return
    queries = [unit(4, 16) for _ in range(5)]
    assert recall(index, nearest(index, library), queries, 10) > 0.8
