"""A retrieval stage from the command line: trained, exported, read again; and what is refused before."""

import dataclasses
import json

import numpy as np
import pytest
from retrieval.retrievers import WORDS

from jaxpo.cli.main import main
from jaxpo.config import SFT, Data, Retrieval, Run, Texts, Tokenizer
from jaxpo.convert.model_io import load_model
from jaxpo.corpora.stdlib_docs_read import Entry
from jaxpo.corpora.stdlib_docs_retrieval import Found, pairs, scored
from jaxpo.errors import ConfigError
from jaxpo.evaluate.retrieval.embedder import embedder_of
from jaxpo.models.family import preset
from jaxpo.objectives.methods.colbert_distillation import ColBERTDistillation
from jaxpo.objectives.methods.info_nce import InfoNCE
from jaxpo.recipe.checks.run import find_problems
from jaxpo.train.metrics import read_metrics

MODEL = """
from dataclasses import replace
from jaxpo.config import Data, Optimizer, Retrieval, Run, Texts, Tokenizer
from jaxpo.models.family import preset
from jaxpo.objectives.methods.info_nce import InfoNCE

MODEL = replace(preset("nano"), vocab_size=322, hidden_size=16, intermediate_size=24, num_attention_heads=2,
                num_key_value_heads=1, head_dim=8, layer_types=("conv", "full_attention"), causal=False)


def config():
    return Run(
        name="tiny",
        model=MODEL,
        tokenizer=Tokenizer(train_on=("rows.jsonl",), vocab_size=320, added=("[Q] ", "[D] ")),
        stages=(
            Retrieval(
                loss=InfoNCE(dimensions=8, widths_trained=(4,)),
                texts=Texts(query_length=10, document_length=16),
                data=Data(train=("rows.jsonl",), eval=("rows.jsonl",), max_length=16, row_length=32),
                optimizer=Optimizer(learning_rate=3e-2, lr_scheduler_type="constant"),
                rows_per_step=8,
                max_steps=20,
                logging_steps=1,
                eval_rows=8,
            ),
        ),
    )
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = [{"query": text, "positive": " ".join(reversed(text.split()))} for text in WORDS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.py").write_text(MODEL.replace('"rows.jsonl"', repr(str(folder / "rows.jsonl"))))
    assert main(["run", str(folder / "tiny.py"), "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.slow  # a run; tests/contracts/test_kinds.py trains such a stage among the others
def test_a_stage_learns_to_find_what_answers_a_query(finished):
    records = read_metrics(finished / "metrics.jsonl")
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < 0.5 * losses[0]
    last = [r for r in records if "eval_accuracy" in r][-1]
    assert last["eval_accuracy"] == 1.0


@pytest.mark.slow
def test_its_model_is_a_retriever_with_the_stage_s_texts_and_so_is_its_export(finished):
    stage, export = load_model(finished), load_model(finished / "export")
    assert stage.retriever.texts == Texts(query_length=10, document_length=16)
    assert export.retriever == stage.retriever
    for a, b in zip(embedder_of(stage).queries(WORDS), embedder_of(export).queries(WORDS), strict=True):
        assert a.shape == (10, 8)
        np.testing.assert_allclose(a, b, atol=1e-5)


def run_of(stage, **model):
    config = dataclasses.replace(preset("nano"), **model)
    return Run(name="r", model=config, tokenizer=Tokenizer(path="t"), stages=(stage,))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Retrieval(loss=InfoNCE(pooling="mean", dimensions=None), max_steps=1), "texts.expansion: fills queries up"),
        (Retrieval(texts=Texts(query_length=2), max_steps=1), "query_length: 2 must be at least 3"),
        (Retrieval(data=Data(row_length=256, max_length=256), max_steps=1), "document_length: 512 exceeds"),
        (Retrieval(loss=InfoNCE(widths_trained=(128,)), max_steps=1), "must be at least 1 and below 128"),
        (Retrieval(loss=InfoNCE(dimensions=0), max_steps=1), "dimensions is 0"),
        (Retrieval(embedding_dropout=1.0, max_steps=1), "embedding_dropout: 1 must lie"),
    ],
)
def test_settings_that_cannot_work_are_named(stage, message):
    assert any(message in problem for problem in find_problems(run_of(stage), files=False))


def test_the_start_of_a_causal_text_says_nothing_of_it():
    stage = Retrieval(loss=InfoNCE(pooling="cls"), texts=Texts(expansion=False), max_steps=1)
    assert any("has seen no text" in problem for problem in find_problems(run_of(stage), files=False))
    assert not any("has seen no text" in problem for problem in find_problems(run_of(stage, causal=False), files=False))


def test_what_looks_both_ways_predicts_no_tokens():
    problems = list(find_problems(run_of(SFT(max_steps=1), causal=False), files=False))
    assert any("it looks both ways" in problem for problem in problems)
    retrieval = list(find_problems(run_of(Retrieval(max_steps=1), causal=False), files=False))
    assert not any("it looks both ways" in problem for problem in retrieval)


def test_lists_of_two_teach_nothing_where_scores_are_normalised():
    scores = np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0]])
    assert "the gradient is 0" in ColBERTDistillation().check_columns({"scores": scores})[0]
    assert ColBERTDistillation(normalize=False).check_columns({"scores": scores}) == []
    assert ColBERTDistillation().check_columns({"scores": scores[1:]}) == []
    with pytest.raises(ConfigError, match="dimensions"):
        ColBERTDistillation(dimensions=-1).build(None)


def test_queries_of_docstrings_do_not_name_their_object():
    doc = "Open a file named open() for reading of lines. What it returns is a file object, which should be closed."
    entry = Entry("function", "io", "io", "io.open", (), f"{doc} It is built in.")
    (found,) = pairs([entry])
    assert found.query == "Open a file named for reading of lines."
    assert found.document.startswith("What it returns")
    assert not list(pairs([dataclasses.replace(entry, doc="One sentence alone.")]))
    train = [Found(f"how to {word} it", f"{word} it with care and {word} again") for word in ("read", "write", "join")]
    first = next(scored(train, 3))
    assert first["documents"][0] == train[0].document
    assert first["scores"][0] == max(first["scores"])
    assert len(first["documents"]) == 3
