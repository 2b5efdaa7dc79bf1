"""NDCG, MRR, recall and MAP: by hand, against trec_eval's own code where it is installed, and on broken files."""

import importlib.util

import numpy as np
import pytest

from jaxpo.errors import DataError
from jaxpo.evaluate.retrieval.beir import read_collection, read_run
from jaxpo.evaluate.retrieval.measures import measured, ndcg, ranked


def test_by_hand():
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0}}
    qrels = {"q": {"b": 2, "x": 1}, "r": {"z": 1}, "nobody": {"a": 0}}
    got = measured(run, qrels)
    ideal = 2 + 1 / np.log2(3)
    np.testing.assert_allclose(got["ndcg@10"], [2 / np.log2(3) / ideal, 0])
    np.testing.assert_allclose(got["mrr@10"], [0.5, 0])
    np.testing.assert_allclose(got["recall@100"], [0.5, 0])
    np.testing.assert_allclose(got["map@100"], [0.25, 0])
    np.testing.assert_allclose(got["accuracy@1"], [0, 0])
    np.testing.assert_allclose(got["accuracy@3"], [1, 0])
    assert ndcg([], {"a": 0}) == 0


def test_of_equal_scores_the_later_id_comes_first():
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0}) == ["b", "c", "a"]


@pytest.mark.skipif(importlib.util.find_spec("pytrec_eval") is None, reason="pip install pytrec-eval-terrier")
def test_all_measures_are_those_of_trec_eval():
    import pytrec_eval

    rng = np.random.default_rng(0)
    documents = [f"d{i}" for i in range(150)]
    # Scores on a coarse grid: there are ties.
    run = {f"q{i}": {d: float(np.round(rng.normal(), 1)) for d in documents} for i in range(20)}
    qrels = {q: {d: int(rng.integers(0, 3)) for d in rng.choice(documents, 12, replace=False)} for q in run}
    names = {"ndcg@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100", "map@100": "map_cut_100"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {*names.values(), "recip_rank"}).evaluate(run)
    ours = measured(run, qrels)
    for name, other in names.items():
        np.testing.assert_allclose(ours[name], [theirs[q][other] for q in qrels], atol=1e-9, err_msg=name)
    # Their reciprocal rank has no cut.
    first = np.asarray([theirs[q]["recip_rank"] for q in qrels])
    np.testing.assert_allclose(ours["mrr@10"], np.where(first >= 0.1 - 1e-12, first, 0), atol=1e-9)


def write(
    folder, corpus='{"_id": "1", "title": "t", "text": "x"}\n{"_id": "2", "text": ""}\n', queries=None, qrels=None
):
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text(queries or '{"_id": "q", "text": "why"}\n{"_id": "r", "text": "how"}\n')
    (folder / "qrels" / "test.tsv").write_text(qrels or "query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder


def test_a_folder_in_beir_s_form(tmp_path):
    found = read_collection(write(tmp_path))
    assert found.corpus == {"1": "t x", "2": ""}
    assert found.queries == {"q": "why"}  # those that are judged
    assert found.qrels == {"q": {"1": 1}}
    assert read_collection(write(tmp_path, qrels="q 0 1 2\n")).qrels == {"q": {"1": 2}}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"corpus": '{"text": "x"}\n'}, "there is no id"),
        ({"corpus": '{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}\n'}, "was there before"),
        ({"corpus": '{"_id": "1", "text": 3}\n'}, "there is no text"),
        ({"queries": '{"_id": "q", "text": " "}\n'}, "query has no text"),
        ({"qrels": "q\t1\n"}, "is no judgement"),
        ({"qrels": "q\t9\t1\n"}, "document '9' is not there"),
        ({"qrels": "p\t1\t1\n"}, "query 'p' is not there"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "holds no judgement"),
        ({"qrels": "q\t1\t0.5\n"}, "0.5 is no grade"),
        ({"qrels": "q\t1\tinf\n"}, "inf is no grade"),
        ({"qrels": "q\t1\t1\nq\t1\t0\n"}, "document '1' has the grade 1 for the query 'q' already"),
        ({"qrels": "q\t1\t0\n"}, "no query has a document that answers it"),
    ],
)
def test_a_broken_file_is_named(tmp_path, broken, message):
    with pytest.raises(DataError, match=message) as error:
        read_collection(write(tmp_path, **broken))
    assert error.value.file is not None


def test_a_missing_file_and_another_split(tmp_path):
    with pytest.raises(DataError, match=r"corpus.jsonl is missing"):
        read_collection(tmp_path)
    folder = write(tmp_path)
    (folder / "qrels" / "dev.tsv").write_text("q\t1\t1\n")
    with pytest.raises(DataError, match="there are: dev, test"):
        read_collection(folder, "train")
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(DataError, match="there is no split 'test'; there are: dev"):
        read_collection(folder)


def test_a_trec_run(tmp_path):
    file = tmp_path / "run"
    file.write_text("q Q0 d1 1 0.5 me\nq Q0 d2 2 0.25 me\n")
    assert read_run(file) == {"q": {"d1": 0.5, "d2": 0.25}}
    file.write_text("q d1\n")
    with pytest.raises(DataError, match="no line of a TREC run"):
        read_run(file)
