"""`jaxpo data embed`, `jaxpo retrieve`, and the constructions of retrieval rows."""

import importlib.util
import json
import logging

import numpy as np
import pytest
from retrieval.retrievers import WORDS, retriever

from jaxpo.cli.main import main
from jaxpo.construct.base import Tools
from jaxpo.construct.negatives import Negatives
from jaxpo.construct.three_sets import ThreeSets
from jaxpo.convert.pylate import export_retriever
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.retrieval import parts
from jaxpo.evaluate.retrieval.embedder import Embedder
from jaxpo.evaluate.retrieval.index import load_index
from jaxpo.evaluate.tasks.base import Reader, Reply
from jaxpo.evaluate.tasks.retrieval import Retrieval
from jaxpo.judges.network import Network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "late"
    own = retriever()
    options = {"tokenizer": own.tokenizer, "verify": False}
    export_retriever(own.params, own.config, folder, own.retriever, **options)
    return folder


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(WORDS)))
    return file


def test_an_index_is_made_and_searched(model, corpus, tmp_path, capsys):
    index = tmp_path / "index"
    assert main(["data", "embed", str(corpus), str(index), "--model", str(model)]) == 0
    assert f"{index}: 4 documents" in capsys.readouterr().out
    assert main(["retrieve", str(index), WORDS[2], "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == WORDS[2]
    assert len(lines) == 3
    assert main(["data", "embed", str(corpus), str(index), "--model", str(model)]) == 2
    assert "exists already" in capsys.readouterr().err
    about = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**about, "model": "0" * 64}))
    assert main(["retrieve", str(index), "a"]) == 2
    assert "of another model" in capsys.readouterr().err
    assert main(["retrieve", str(index), " "]) == 2
    assert "is empty" in capsys.readouterr().err


def test_documents_are_refused_before_anything_is_encoded(model, corpus, tmp_path, capsys):
    for row, message in (
        ({"_id": ["x"], "text": "a"}, "field '_id'"),
        ({"id": "", "text": "a"}, "field 'id'"),
        ({"_id": "x", "title": 5, "text": "a"}, "field 'title'"),
        ({"_id": "x", "text": None}, "field 'text'"),
    ):
        file = tmp_path / "bad.jsonl"
        file.write_text('{"_id": "d", "text": "t"}\n' + json.dumps(row) + "\n")
        assert main(["data", "embed", str(file), str(tmp_path / "index"), "--model", str(model)]) == 2
        said = capsys.readouterr().err
        assert "bad.jsonl, row 2" in said
        assert message in said
    assert main(["data", "embed", str(corpus), str(corpus), "--model", "no model", "--overwrite"]) == 2
    assert "is a file, not the folder of an index" in capsys.readouterr().err


def test_an_index_that_says_no_model_is_told(model, corpus, tmp_path, capsys):
    index = tmp_path / "index"
    assert main(["data", "embed", str(corpus), str(index), "--model", str(model)]) == 0
    about = json.loads((index / "index.json").read_text())
    del about["source"]
    (index / "index.json").write_text(json.dumps(about))
    capsys.readouterr()
    assert main(["retrieve", str(index), "a"]) == 2
    assert "does not say where its model is; give --model" in capsys.readouterr().err
    assert main(["retrieve", str(index), "a", "--model", str(model)]) == 0


def test_an_index_that_was_interrupted_is_finished(model, corpus, tmp_path, capsys, monkeypatch):
    whole, index = tmp_path / "whole", tmp_path / "index"
    embed = ["data", "embed", str(corpus), str(index), "--model", str(model)]
    assert main([*embed[:3], str(whole), *embed[4:]]) == 0
    monkeypatch.setattr(parts, "SIZE", 3)
    documents, made = Embedder.documents, []

    def stopped(self, texts, progress):
        made.append(len(texts))
        if len(made) == 2:
            raise KeyboardInterrupt
        return documents(self, texts, progress)

    monkeypatch.setattr(Embedder, "documents", stopped)
    assert main(embed) == 130
    assert main([*embed, "--dtype", "float16"]) == 2
    assert "the beginning of an index of other documents" in capsys.readouterr().err
    assert main(embed) == 0
    assert "3 of 4 documents have vectors already" in capsys.readouterr().out
    assert made == [3, 1, 1]
    assert sorted(each.name for each in index.iterdir()) == ["documents.jsonl", "index.json", "vectors.safetensors"]
    # --overwrite replaces a whole index, and goes on with what it began itself.
    made.clear()
    assert main([*embed, "--overwrite"]) == 130
    assert [each.name for each in index.iterdir()] == ["parts"]
    assert main([*embed, "--overwrite"]) == 0
    assert made == [3, 1, 1]
    made.append(0)
    (index / "parts").mkdir()
    (index / "parts" / "about.json").write_text("{}")
    (index / "index.json").unlink()
    assert main(embed) == 2
    assert "the beginning of an index of other documents" in capsys.readouterr().err
    assert main([*embed, "--overwrite"]) == 0
    corpus.write_text(corpus.read_text().replace("d1", "d0"))
    assert main([*embed, "--overwrite"]) == 2
    assert "two documents have the id 'd0'" in capsys.readouterr().err
    one, two = load_index(whole), load_index(index)
    np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-6)
    np.testing.assert_array_equal(one.offsets, two.offsets)


def collection(folder, queries):
    """A folder in BEIR's form: query -> the document that answers it."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": text} for i, text in enumerate(WORDS)]
    asked = [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
    for name, data in (("corpus.jsonl", documents), ("queries.jsonl", asked)):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in data))
    judged = "".join(f"q{i}\t{answer}\t1\n" for i, answer in enumerate(queries.values()))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_a_retriever_is_measured_on_collections(model, tmp_path, capsys):
    collection(tmp_path / "sets" / "one", {WORDS[0]: "d0", WORDS[1]: "d1"})
    collection(tmp_path / "sets" / "two", {WORDS[2]: "d2"})
    (tmp_path / "sets" / "notes").mkdir()
    out = tmp_path / "out"
    assert main(["eval", str(model), "--tasks", f"retrieval:{tmp_path / 'sets'}", "--out", str(out)]) == 0
    (task,) = json.loads((out / "results.json").read_text())["tasks"].values()
    results = task["results"]
    assert results["ndcg@10"]["n"] == 3
    assert results["ndcg@10_one"]["n"] == 2
    each = [results[f"ndcg@10_{name}"]["value"] for name in ("one", "two")]
    assert results["mean_ndcg@10"]["value"] == pytest.approx(sum(each) / 2)
    assert ("ndcg@10_bm25" in results) == (importlib.util.find_spec("bm25s") is not None)
    assert main(["eval", str(model), "--tasks", f"retrieval:{tmp_path}", "--out", str(out / "b")]) == 2
    assert "there is no collection" in capsys.readouterr().err


def test_a_model_that_is_no_retriever_is_asked_for_no_documents(tmp_path):
    task = Retrieval(source=str(collection(tmp_path / "one", {WORDS[0]: "d0"})))
    (example,) = task.examples()
    with pytest.raises(ConfigError, match="the model is no retriever"):
        task.ask(example, Reader(retriever().tokenizer, 64))
    assert task.score(example, Reply(found=({"d1": 1.0, "d0": 0.5},))).values["mrr@10"] == 0.5
    assert list(Retrieval(source="x", split=" ").problems())


def rows(tmp_path, *data):
    return [Row(tmp_path / "rows.jsonl", i, one) for i, one in enumerate(data, start=1)]


def test_negatives_by_the_model_stay_below_the_positive(tmp_path):
    pairs = rows(tmp_path, *({"anchor": text, "positive": f"{text} {i}"} for i, text in enumerate(WORDS)))
    tools = Tools(networks={"model": Network.of(retriever(), tokenizer=retriever().tokenizer)}, say=lambda _: None)
    made = list(Negatives(by="model", count=1, scored=True, share=1.0).run(pairs, tools))
    assert made
    for row in made:
        positive, negative = row["documents"]
        assert positive.startswith(row["query"])
        assert not negative.startswith(row["query"])
        assert row["scores"][1] < row["scores"][0]
    fewer = list(Negatives(by="model", count=1, share=1e-6).run(pairs, tools))
    assert not fewer
    assert tools.counts["dropped_too_few_negatives"] >= len(WORDS)
    with pytest.raises(ConfigError, match="--share is 0"):
        list(Negatives(share=0).run(pairs, tools))


@pytest.mark.parametrize("right", [1.0, -1.0, 0.0])
def test_negatives_stay_below_a_positive_of_any_sign(tmp_path, monkeypatch, right):
    documents = [{"text": name} for name in "bcde"]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in documents))
    # In the order of the documents: those of the corpus, then the positive.
    scores = np.float32([right + 0.5, right + (0.02 if not right else -0.02), right - 0.06, right - 2.0, right])
    monkeypatch.setattr(Negatives, "_scores", lambda *about: lambda query: scores)
    pair, tools = rows(tmp_path, {"query": "a", "positive": "p"}), Tools()
    (row,) = Negatives(count=2, corpus=str(corpus)).run(pair, tools)
    assert row["negatives"] == ["d", "e"]
    assert tools.counts["too_near_the_positive"] == 2


def test_documents_without_a_text_are_no_negatives(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    for row in ({"body": "x"}, {"text": " "}, {"text": 3}):
        corpus.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(DataError, match=r"corpus.jsonl, row 2, field 'text'"):
            list(Negatives(corpus=str(corpus)).run(rows(tmp_path, {"query": "a", "positive": "p"}), Tools()))


@pytest.mark.skipif(importlib.util.find_spec("bm25s") is None, reason="pip install bm25s")
def test_negatives_by_bm25(tmp_path):
    texts = ["read a file", "read a file slowly", "read two files", "write a file", "the time of day"]
    pairs = rows(
        tmp_path, {"query": "read a file", "positive": texts[0]}, *({"query": t, "positive": t} for t in texts[1:])
    )
    made = list(Negatives(count=2, share=1.0).run(pairs, Tools()))
    assert logging.getLogger("bm25s").level == logging.WARNING
    first = next(row for row in made if row["query"] == "read a file")
    assert first["positive"] == texts[0]
    assert set(first["negatives"]) <= set(texts[1:])


def test_three_sets_become_one(tmp_path):
    def file(name, *data):
        path = tmp_path / name
        path.write_text("".join(json.dumps(one) + "\n" for one in data))
        return str(path)

    queries = file("q.jsonl", {"query_id": 1, "text": "why"})
    documents = file("d.jsonl", {"document_id": "a", "text": "so"}, {"_id": "b", "title": "t", "text": "no"})
    train = rows(tmp_path, {"query_id": "1", "document_ids": ["a", "b"], "scores": [0.9, 0.1]})
    joined = ThreeSets(queries, documents)
    assert list(joined.run(train, Tools())) == [{"query": "why", "documents": ["so", "t no"], "scores": [0.9, 0.1]}]
    for broken, message in (
        ({"query_id": 1, "document_ids": ["z"], "scores": [1]}, "no text has the id 'z'"),
        ({"query_id": 2, "document_ids": ["a"], "scores": [1]}, "no text has the id 2"),
        ({"query_id": 1, "document_ids": ["a"], "scores": []}, "lists of one length"),
        ({"query_id": 1, "scores": []}, "'document_ids' is missing"),
    ):
        with pytest.raises(DataError, match=message):
            list(joined.run(rows(tmp_path, broken), Tools()))
    twice = file("twice.jsonl", {"document_id": "a", "text": "so"}, {"document_id": "a", "text": "not so"})
    with pytest.raises(DataError, match=r"twice.jsonl, row 2, field 'document_id': the id 'a' was there before"):
        list(ThreeSets(queries, twice).run(train, Tools()))
    with pytest.raises(DataError, match=r"rows.jsonl, row 1, field 'document_ids': 'a' is there twice"):
        list(joined.run(rows(tmp_path, {"query_id": 1, "document_ids": ["a", "a"], "scores": [1, 2]}), Tools()))
    with pytest.raises(ConfigError, match="--queries is missing"):
        list(ThreeSets().run(train, Tools()))


def test_a_folder_in_beirs_form_becomes_rows_to_train_on(tmp_path, capsys):
    folder = collection(tmp_path / "beir", {WORDS[0]: "d0", WORDS[1]: "d1"})
    judged = folder / "qrels" / "train.tsv"
    judged.write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td2\t0\nq1\td1\t2\nq1\td3\t1\n")
    files = ["--queries", str(folder / "queries.jsonl"), "--documents", str(folder / "corpus.jsonl")]
    out = tmp_path / "rows.jsonl"
    assert main(["data", "construct", "three_sets", str(judged), str(out), *files]) == 0
    assert "3 rows from 4, no_answer 1" in capsys.readouterr().out
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert made == [{"query": WORDS[i], "positive": WORDS[j]} for i, j in ((0, 0), (1, 1), (1, 3))]
    for row, message in (
        ("q0\td9\t1", "row 5, field 'corpus-id': no text has the id 'd9'"),
        ("q9\td0\t1", "row 5, field 'query-id': no text has the id 'q9'"),
        ("q0\td0\t0.5", "row 5, field 'score': 0.5 is no grade"),
        ("q0\td0\t", "row 5, field 'score': there is no number"),
    ):
        bad = tmp_path / "bad.tsv"
        bad.write_text(judged.read_text() + row + "\n")
        assert main(["data", "construct", "three_sets", str(bad), str(tmp_path / "no.jsonl"), *files]) == 2
        assert f"bad.tsv, {message}" in capsys.readouterr().err
