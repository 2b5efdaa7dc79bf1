"""Two corpora side by side keep their own files and manifests."""

import json

from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.corpora.recipe import RecipeCorpus


class Docs:
    """Stands in for the documentation, whose reading takes seconds."""

    def build(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pretrain_train.jsonl").write_text('{"text": "a"}\n')
        (directory / "pretrain_heldout.jsonl").write_text('{"text": "b"}\n{"text": "c"}\n{"text": "d"}\n')
        reused = (directory / "built").exists()
        (directory / "built").touch()
        files = dict.fromkeys(("pretrain_train.jsonl", "pretrain_heldout.jsonl"), "0" * 64)
        return {"hash": "d", "python": "3", "counts": {"x": 1}, "files": files, "lines": ["docs"], "reused": reused}


def test_both_are_built_once_in_their_own_folders(tmp_path):
    corpus = RecipeCorpus(docs=Docs(), arithmetic=Arithmetic(train=12, heldout=6))
    first = corpus.build(tmp_path)
    assert not first["reused"]
    assert first["counts"] == {
        "docs/x": 1,
        "arithmetic/arithmetic_train": 12,
        "arithmetic/arithmetic_heldout": 6,
        "select/pretrain": 2,
        "select/arithmetic": 3,
        "report/pretrain": 1,
        "report/arithmetic": 3,
    }
    texts = [json.loads(line)["text"] for line in (tmp_path / "select" / "pretrain.jsonl").read_text().splitlines()]
    assert texts == ["b", "d"]
    assert json.loads((tmp_path / "report" / "pretrain.jsonl").read_text()) == {"text": "c"}
    for name in first["files"]:
        assert json.loads((tmp_path / name).read_text().splitlines()[0])
    second = corpus.build(tmp_path)
    assert second["reused"]
    assert second["hash"] == first["hash"]
    other = RecipeCorpus(docs=Docs(), arithmetic=Arithmetic(train=12, heldout=6, seed=1)).build(tmp_path)
    assert other["hash"] != first["hash"]
