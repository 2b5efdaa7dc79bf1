"""Retrievers as folders of pylate and sentence-transformers: written, verified, read back; theirs read."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from retrieval.retrievers import SINGLE, TEXTS, WORDS, retriever, with_layers
from safetensors.numpy import load_file, save_file

from jaxpo.convert.formats import Options
from jaxpo.convert.gguf.folder import write as write_gguf
from jaxpo.convert.gguf.header import read_header
from jaxpo.convert.gguf.hyperparameters import inexpressible_head
from jaxpo.convert.gguf.read import import_gguf, open_gguf
from jaxpo.convert.model_io import load_model, read_config, read_heads, read_retriever_of
from jaxpo.convert.pylate import export_retriever, use_of
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.evaluate.retrieval.embedder import embedder_of
from jaxpo.models.retrieval import VectorHead

RNG = np.random.default_rng(0)


def export(model, folder):
    return export_retriever(model.params, model.config, folder, model.retriever, tokenizer=model.tokenizer)


def same_vectors(a, b):
    for kind in ("queries", "documents"):
        for x, y in zip(getattr(embedder_of(a), kind)(WORDS), getattr(embedder_of(b), kind)(WORDS), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "causal"), [("tokens", True), ("tokens", False), ("mean", True), ("cls", False), ("last", True)]
)
def test_what_is_written_gives_the_same_vectors_when_it_is_read(tmp_path, pooling, causal):
    model = retriever(pooling, causal)
    report = export(model, tmp_path / "out")
    assert report["max_vector_error"] < 1e-5
    again = load_model(tmp_path / "out")
    assert again.retriever == model.retriever
    assert again.config == dataclasses.replace(model.config, vocab_size=model.tokenizer.vocab_size)
    assert read_retriever_of(tmp_path / "out") == model.retriever
    assert read_heads(tmp_path / "out") == (("projection",) if pooling == "tokens" else ())
    same_vectors(model, again)
    text = " ".join(use_of(model.config, model.retriever))
    assert ("looks both ways" in text) != causal


def test_the_files_are_those_of_pylate(tmp_path):
    model = retriever()
    export(model, tmp_path / "out")
    read = lambda name: json.loads((tmp_path / "out" / name).read_text())  # noqa: E731
    assert [module["type"] for module in read("modules.json")] == [
        "sentence_transformers.models.Transformer",
        "pylate.models.Dense.Dense",
    ]
    assert read("1_Dense/config.json") == {
        "in_features": 16,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    settings = read("config_sentence_transformers.json")
    assert settings["query_prefix"] == "[Q] "
    assert (settings["query_length"], settings["document_length"]) == (TEXTS.query_length, TEXTS.document_length)
    assert settings["skiplist_words"] == list(TEXTS.skip)
    assert read("config.json")["architectures"] == ["Lfm2Model"]
    assert read("sentence_bert_config.json")["max_seq_length"] == TEXTS.document_length - 1
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert "embed_tokens.weight" in stored
    assert stored["embed_tokens.weight"].shape[0] == model.tokenizer.vocab_size
    assert load_file(tmp_path / "out" / "1_Dense" / "model.safetensors")["linear.weight"].shape == (8, 16)


def test_several_dense_layers_with_bias_activation_and_residual(tmp_path):
    w = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)  # noqa: E731
    layers = {
        "0": {"weight": w(16, 24), "bias": w(24), "residual": w(16, 24)},
        "1": {"weight": w(24, 24), "residual": jnp.eye(24)},
        "2": {"weight": w(24, 8)},
    }
    model = with_layers(retriever(), layers, ("gelu", "tanh", "identity"))
    export(model, tmp_path / "out")
    assert "residual.weight" in load_file(tmp_path / "out" / "1_Dense" / "model.safetensors")
    assert "residual.weight" not in load_file(tmp_path / "out" / "2_Dense" / "model.safetensors")
    same_vectors(model, load_model(tmp_path / "out"))
    odd = with_layers(retriever(), {"0": {"weight": w(16, 16), "residual": w(16, 16)}}, ("identity",))
    with pytest.raises(CheckpointError, match="adds what comes in as it is"):
        export(odd, tmp_path / "odd")


def test_sentence_transformers_own_form_of_late_interaction(tmp_path):
    model = retriever()
    export(model, tmp_path / "out")
    folder = tmp_path / "out"
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.base.modules.dense.Dense"
    room = "sentence_transformers"
    kinds = (f"{room}.base.modules.Normalize", f"{room}.multi_vector_encoder.modules.MultiVectorMask")
    modules += [{"path": f"{i}_{kind.rpartition('.')[2]}", "type": kind} for i, kind in enumerate(kinds, start=2)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "3_MultiVectorMask").mkdir()
    (folder / "3_MultiVectorMask" / "config.json").write_text(json.dumps({"skiplist_words": list(TEXTS.skip)}))
    prompts = {"query": "[Q] ", "document": "[D] "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    expansion = {"strategy": "fixed", "attend": False, "length": 12}
    knobs = {"max_seq_length": 20, "query_expansion": expansion, "document_length": 20}
    (folder / "sentence_bert_config.json").write_text(json.dumps(knobs))
    again = load_model(folder)
    assert again.retriever == model.retriever
    same_vectors(model, again)


def test_what_is_not_known_is_named(tmp_path):
    export(retriever(), tmp_path / "out")

    def broken(change, message):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "out", folder)
        change(folder)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)

    odd = [{"path": "", "type": "a.Transformer"}, {"path": "x", "type": "a.WordWeights"}]
    broken(lambda f: (f / "modules.json").write_text(json.dumps(odd)), "module a.WordWeights is not known")
    broken(lambda f: (f / "modules.json").write_text("{"), "no list of modules")
    dense = {"activation_function": "torch.nn.modules.activation.Mish"}
    broken(lambda f: (f / "1_Dense" / "config.json").write_text(json.dumps(dense)), "Mish is not known")
    broken(lambda f: save_file({"a": np.zeros(1)}, f / "1_Dense" / "model.safetensors"), r"has no linear\.weight")


@pytest.mark.parametrize("prefix", ["", "lfm2.", "model."])
def test_an_encoder_is_read_by_its_architecture_whatever_stands_before_its_names(tmp_path, prefix):
    model = retriever("cls", causal=False)
    export(model, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    save_file({prefix + name: values for name, values in load_file(file).items()}, file)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for name, causal in (("Lfm2BidirectionalForMaskedLM", False), ("Lfm2Model", True)):
        (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        assert read_config(tmp_path / "out").causal == causal
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    same_vectors(model, load_model(tmp_path / "out"))


def test_a_gguf_file_says_how_vectors_are_made(tmp_path):
    pytest.importorskip("gguf", reason="needs gguf")
    for pooling, causal in (("cls", False), ("tokens", False)):
        model = retriever(pooling, causal)
        export(model, tmp_path / pooling)
        (row,) = write_gguf(tmp_path / pooling, tmp_path / f"{pooling}-gguf", Options(("f32",)))
        file = tmp_path / f"{pooling}-gguf" / row.file
        opened = open_gguf(file)
        assert opened.config.causal is False
        assert opened.pooling == pooling
        assert row.by == "float64 numpy"
        with pytest.raises(CheckpointError, match="is a retriever"):
            import_gguf(file)
    metadata = read_header(file).metadata
    assert metadata["lfm2.embedding_length_out"] == 8
    assert metadata["lfm2.pooling_type"] == 0
    (dense,) = opened.dense.values()
    np.testing.assert_array_equal(dense.read().T, model.params["projection"]["0"]["weight"])
    assert "vector for each token" in (tmp_path / "tokens-gguf" / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["tokens", "mean"])
def test_llama_cpp_runs_the_file_of_a_causal_retriever(tmp_path, pooling):
    pytest.importorskip("xllamacpp", reason="needs xllamacpp")
    export(retriever(pooling), tmp_path / "out")
    (row,) = write_gguf(tmp_path / "out", tmp_path / "gguf", Options(("f32",)))
    assert "llama.cpp" in row.by


def test_dense_layers_that_llama_cpp_has_not_are_named():
    plain, w = VectorHead("tokens", ("identity",)), {"weight": 0}
    assert inexpressible_head(plain, {"0": w}) == []
    assert inexpressible_head(VectorHead("mean", ()), {}) == []
    assert "runs one dense layer" in inexpressible_head(VectorHead("tokens", ("tanh",)), {"0": w})[0]
    assert "runs one dense layer" in inexpressible_head(plain, {"0": {**w, "bias": 0}})[0]
    assert "here a text has one" in inexpressible_head(VectorHead("mean", ("identity",)), {"0": w})[0]


def test_a_model_that_is_no_retriever_makes_no_vectors():
    model = dataclasses.replace(retriever(), about={})
    assert model.retriever is None
    with pytest.raises(ConfigError, match="is no retriever"):
        embedder_of(model)
    lacking = dataclasses.replace(retriever(), params={"model": retriever().params["model"]})
    with pytest.raises(CheckpointError, match="has 0 dense layers and names 1"):
        embedder_of(lacking)
    assert SINGLE.expansion is False
