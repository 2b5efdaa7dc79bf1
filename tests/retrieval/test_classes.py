"""An encoder with a classification head: texts and classes to ratings, what is read of a text, and the class it is."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from retrieval.retrievers import WORDS

from jaxpo.cli.main import main
from jaxpo.construct.base import Tools
from jaxpo.construct.classes import Classes
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError
from jaxpo.objectives.families.pooled import pooled_segments
from jaxpo.objectives.families.rewards import Reading, Rewards
from jaxpo.objectives.methods.rating import Rating

SOFTMAX = Rating(aspects=("file", "path", "time"), form="softmax")


def rows(tmp_path, *data):
    return [Row(tmp_path / "rows.jsonl", i, one) for i, one in enumerate(data, start=1)]


def test_texts_with_a_class_become_ratings(tmp_path):
    pair = [{"text": "a", "label": "spam"}, {"text": "b", "label": 3}]
    made = list(Classes().run(rows(tmp_path, *pair), Tools()))
    assert made == [
        {"prompt": "a", "ratings": {"3": 0, "spam": 1}},
        {"prompt": "b", "ratings": {"3": 1, "spam": 0}},
    ]
    (one,) = Classes(labels=("spam", "ham")).run(rows(tmp_path, pair[0]), Tools())
    assert one["ratings"] == {"ham": 0, "spam": 1}
    for data, how, message in (
        (pair[:1], Classes(), "all rows are of class 'spam'"),
        (pair, Classes(labels=("ham", "spam")), "the class '3' is none of those given"),
        ([{"text": " ", "label": "x"}], Classes(), "there is no text"),
        ([{"text": "a", "label": None}], Classes(), "there is no class"),
    ):
        with pytest.raises(DataError, match=message):
            list(how.run(rows(tmp_path, *data), Tools()))


def test_one_state_of_each_packed_text():
    batch = packed(make_examples("completion", 6, 0))
    hidden = jax.random.normal(jax.random.key(0), (*batch.tokens.shape, 4))
    found = {how: np.asarray(pooled_segments(hidden, batch, how)) for how in ("mean", "cls", "last")}
    for r, ids in enumerate(np.asarray(batch.segment_ids)):
        for m in range(batch.slots):
            own = np.asarray(hidden)[r, ids == m + 1]
            wanted = {"mean": own.mean(0), "cls": own[0], "last": own[-1]} if len(own) else dict.fromkeys(found, 0.0)
            for how, states in found.items():
                np.testing.assert_allclose(states[r, m], wanted[how], atol=1e-5)
    masked = batch.replace(per_token={**batch.per_token, "key": jnp.zeros_like(batch.tokens)})
    np.testing.assert_array_equal(pooled_segments(hidden, masked, "mean"), 0)


def test_the_likeliest_class_is_right_or_wrong():
    logits = jnp.asarray([[2.0, 0, 0], [0, 1.0, 3.0], [0, 0, 1.0]])
    ratings = jnp.asarray([[1.0, 0, 0], [0, 1.0, 0], [jnp.nan] * 3])
    reading = Reading({"aspects": logits}, jnp.ones(3))
    features = Rewards({"completion": reading}, jnp.ones(3, bool), {"ratings": ratings})
    right, where = SOFTMAX.right(features)
    np.testing.assert_array_equal(right[:2, 0], [True, False])
    np.testing.assert_array_equal(where[:, 0], [True, True, False])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(SOFTMAX.head_values(reading), shares, rtol=1e-5)
    np.testing.assert_allclose(SOFTMAX.reward(reading), shares[:, -1], rtol=1e-5)
    (terms,) = SOFTMAX.loss(features).items()
    assert terms[0] == "examples"
    np.testing.assert_allclose(terms[1], [-np.log(shares[0, 0]), -np.log(shares[1, 1]), 0], rtol=1e-5)
    weighted = dataclasses.replace(SOFTMAX, weights=(1.0, 0.0, 0.0))
    np.testing.assert_allclose(weighted.reward(reading), shares[:, 0], rtol=1e-5)


def test_ratings_that_are_no_classes():
    check = lambda *ratings: SOFTMAX.check_columns({"ratings": np.asarray(ratings)})  # noqa: E731
    assert check([1.0, 0, 0], [np.nan, 2, 1]) == []
    assert "shares of classes, which -1 is not" in check([1.0, -1, 0])[0]
    assert "a row has none" in check([0.0, 0, np.nan])[0]
    assert "softmax needs two aspects" in Rating(form="softmax").problems()[0]


RUN = """
from dataclasses import replace
from jaxpo.config import Data, Optimizer, Reward, Run, Tokenizer
from jaxpo.models.family import preset
from jaxpo.objectives.methods.rating import Rating


def config():
    model = replace(preset("nano"), vocab_size=320, hidden_size=16, intermediate_size=24, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=8, layer_types=("conv", "full_attention"), causal=False)
    return Run(
        name="tiny",
        model=model,
        tokenizer=Tokenizer(train_on=("ROWS",), vocab_size=320),
        stages=(
            Reward(
                loss=Rating(aspects=("io", "other"), form="softmax", pooling="mean"),
                data=Data(train=("ROWS",), eval=("ROWS",), max_length=32, row_length=64),
                optimizer=Optimizer(learning_rate=3e-2, lr_scheduler_type="constant"),
                rows_per_step=8,
                max_steps=20,
                eval_rows=8,
            ),
        ),
    )
"""


@pytest.mark.slow
def test_an_encoder_learns_classes_and_tells_those_of_texts(tmp_path):
    texts = [{"text": text, "label": "io" if i < 2 else "other"} for i, text in enumerate(WORDS)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))
    classes = str(tmp_path / "rows.jsonl")
    assert main(["data", "construct", "classes", str(tmp_path / "texts.jsonl"), classes]) == 0
    (tmp_path / "tiny.py").write_text(RUN.replace("ROWS", classes))
    run = tmp_path / "run"
    assert main(["run", str(tmp_path / "tiny.py"), "--run", str(run)]) == 0
    assert load_model(run / "export").reader == load_model(run).reader
    assert load_model(run).reader.method.pooling == "mean"
    told = tmp_path / "told.jsonl"
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"text": text}) + "\n" for text in WORDS))
    assert main(["data", "construct", "classify", str(bare), str(told), "--reward", str(run / "export")]) == 0
    found = [json.loads(line) for line in told.read_text().splitlines()]
    assert [one["label"] for one in found] == [one["label"] for one in texts]
    assert all(sum(one["classes"].values()) == pytest.approx(1) for one in found)
