"""Retrievers in the libraries that users have: exports load in pylate and sentence-transformers and give our vectors.

Each library has an environment of its own (pylate pins an older sentence-transformers, and both an older transformers):

    pip install -c constraints.txt ".[dev]" torch "sentence-transformers==6.2.0"
    pip install -c constraints.txt ".[dev]" torch pylate==1.6.0        # another environment
    python -m pytest tests/parity/test_retrievers.py -m parity

docs/retrieval.md says with which versions it passed.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.parity
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from retrieval.retrievers import WORDS, retriever, with_layers  # noqa: E402

from jaxpo.convert.model_io import load_model  # noqa: E402
from jaxpo.convert.pylate import export_retriever  # noqa: E402
from jaxpo.evaluate.retrieval.embedder import embedder_of  # noqa: E402

MAJOR = int(sentence_transformers.__version__.split(".")[0])
TEXTS = [*WORDS, "?!", "read, write; and close " * 6]


def export(model, folder):
    export_retriever(model.params, model.config, folder, model.retriever, tokenizer=model.tokenizer)
    return str(folder)


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), atol=2e-5)


@pytest.fixture(params=["one layer", "several layers"])
def model(request):
    if request.param == "one layer":
        return retriever()
    rng = np.random.default_rng(0)
    w = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    layers = {"0": {"weight": w(16, 24), "bias": w(24), "residual": w(16, 24)}, "1": {"weight": w(24, 8)}}
    return with_layers(retriever(), layers, ("tanh", "identity"))


def test_pylate_loads_what_is_exported(tmp_path, model):
    pylate = pytest.importorskip("pylate.models", reason="needs pylate")
    embedder = embedder_of(model)
    theirs = pylate.ColBERT(export(model, tmp_path / "out"), device="cpu")
    # In a batch: an earlier transformers blanks padding in convolutions only where there are several rows.
    assert_close(embedder.queries(TEXTS), theirs.encode(TEXTS, is_query=True, show_progress_bar=False))
    found = [theirs.encode([text], is_query=False, show_progress_bar=False)[0] for text in TEXTS]
    assert_close(embedder.documents(TEXTS), found)


@pytest.mark.skipif(MAJOR < 6, reason="needs sentence-transformers 6")
def test_sentence_transformers_loads_what_is_exported_and_we_what_it_saves(tmp_path, model):
    embedder = embedder_of(model)
    theirs = sentence_transformers.MultiVectorEncoder(export(model, tmp_path / "out"), device="cpu")
    found = [theirs.encode_query([text], show_progress_bar=False)[0] for text in TEXTS]
    assert_close(embedder.queries(TEXTS), [x.cpu() if hasattr(x, "cpu") else x for x in found])
    found = [theirs.encode_document([text], show_progress_bar=False)[0] for text in TEXTS]
    assert_close(embedder.documents(TEXTS), [x.cpu() if hasattr(x, "cpu") else x for x in found])
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again = embedder_of(load_model(tmp_path / "theirs"))
    assert_close(again.queries(TEXTS), embedder.queries(TEXTS))
    assert_close(again.documents(TEXTS), embedder.documents(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_sentence_transformers_loads_embedding_models_and_we_what_it_saves(tmp_path, pooling):
    own = retriever(pooling)
    embedder = embedder_of(own)
    theirs = sentence_transformers.SentenceTransformer(export(own, tmp_path / "out"), device="cpu")
    for kind, prompt in (("queries", "query"), ("documents", "document")):
        found = [theirs.encode([text], prompt_name=prompt, show_progress_bar=False) for text in TEXTS]
        assert_close(getattr(embedder, kind)(TEXTS), found)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert json.loads((tmp_path / "theirs" / "modules.json").read_text())
    assert_close(embedder_of(load_model(tmp_path / "theirs")).queries(TEXTS), embedder.queries(TEXTS))
