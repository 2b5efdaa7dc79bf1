"""A further kind of stage and a further family of models: each an entry in a table and a file of its own."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from contracts import kinds
from contracts.test_kinds import finished
from fakes import linear_rnn, scaled

from jaxpo.config import Pretrain, Run, Tokenizer
from jaxpo.convert.model_io import load_model
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import FAMILIES
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.kinds import KINDS
from jaxpo.train.metrics import read_metrics

MODEL = linear_rnn.LinearRNNConfig(vocab_size=384)


@pytest.fixture
def enrolled(monkeypatch):
    """Both fakes, while a test runs."""
    monkeypatch.setitem(KINDS, scaled.Scaled, scaled.KIND)
    monkeypatch.setitem(FAMILIES, *linear_rnn.ENTRY)


@pytest.fixture
def run(tmp_path) -> Run:
    """The fake kind after a known one, both of a model of the fake family; it trains all but the embedding."""
    kinds.write_data(tmp_path)
    data = kinds.data(tmp_path, "text")
    return Run(
        name="fakes",
        output_dir=str(tmp_path / "runs"),
        model=MODEL,
        tokenizer=Tokenizer(train_on=(str(tmp_path / "text_train.jsonl"),), vocab_size=384),
        stages=(
            Pretrain(data=data, **kinds.COMMON),
            scaled.Scaled(data=data, train=("model/decay/*", "model/out_proj/*"), **kinds.COMMON),
        ),
        export=False,
    )


def test_a_fake_kind_trains_a_fake_family_and_both_can_be_removed(enrolled, run, monkeypatch):
    given = []
    noting = dataclasses.replace(scaled.KIND, make_source=lambda m: given.append(m) or scaled.KIND.make_source(m))
    monkeypatch.setitem(KINDS, scaled.Scaled, noting)
    folder = Path(finished(run, monkeypatch))
    records = read_metrics(folder / "metrics.jsonl")
    names = [stage.name for stage in run.stages]
    steps = {name: [r["step"] for r in records if r["stage"] == name and "loss" in r] for name in names}
    assert steps == {"pretrain": [1, 2, 3], "scaled": [1, 2, 3, 4, 5, 6]}  # its source gives every batch twice
    (measured,) = (r for r in records if r["stage"] == "scaled" and "eval_loss" in r)
    assert measured["eval_surprise"] == pytest.approx(measured["eval_entropy"])
    before, after = (load_model(folder / "stages" / name) for name in ("pretrain", "scaled"))
    assert before.config == after.config == MODEL
    assert any((a != b).any() for a, b in zip(leaves(before.params), leaves(after.params), strict=True))
    (materials,) = given  # a source that runs the trained network finds there what the state does not hold
    (fixed,) = leaves(materials.frozen[FIXED])
    np.testing.assert_array_equal(fixed, before.params["model"]["embedding"]["weight"])
    with pytest.raises(ConfigError, match=r"scaled\.scale: -1 must be above 0\."):
        check(with_scale(run, -1.0))

    monkeypatch.undo()
    with pytest.raises(
        ConfigError, match=r"stages\[1\]: is a Scaled, not one of Pretrain, MaskedLM, SFT, .*, or a work stage"
    ):
        check(run)
    with pytest.raises(CheckpointError, match=r"LinearRNNConfig' is not jaxpo's own"):
        load_model(folder)


def leaves(tree):
    return jax.tree.leaves(tree)


def with_scale(run, value):
    return dataclasses.replace(run, stages=(run.stages[0], dataclasses.replace(run.stages[1], scale=value)))
