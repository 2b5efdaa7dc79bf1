"""Tokens that a run adds to a model's vocabulary have rows that start at the mean of the others."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.config import Run, Tokenizer
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.family import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.sharding import make_mesh
from jaxpo.stages.added_tokens import added_ids, with_room
from jaxpo.stages.run import initial
from jaxpo.stages.setting import Setting

ADDED = ("[Q] ", "[D] ")
PLAIN = SimpleNamespace(init_from="previous")
"""A stage that starts from the one before."""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["good bad open close"] * 4, 300)


def start(folder, tokenizer, vocabulary):
    """A model of so many rows, as `jaxpo run` finds it; what it starts a run with that adds two tokens."""
    config = replace(recipes.MODEL, vocab_size=vocabulary)
    params = {"model": init_params(param_table(config), jax.random.key(0))}
    save_model(folder / "m", params, config, {"stage": "m", "trained_on": ""})
    tokenizer.save(folder / "m" / "tokenizer")
    run, more = Run(model_from=str(folder / "m"), tokenizer=Tokenizer(added=ADDED)), tokenizer.with_added(ADDED)
    ids = added_ids(run, more)
    inputs = SimpleNamespace(config=with_room(config, ids), added_ids=ids, tokenizer=more)
    setting = SimpleNamespace(run=run, inputs=inputs, mesh=make_mesh({}, jax.devices()[:1]), rules=None)
    return params["model"], setting


@pytest.mark.parametrize("spare", [0, 9])
def test_rows_of_added_tokens_start_at_the_mean(tmp_path, tokenizer, spare):
    known = tokenizer.vocab_size
    before, setting = start(tmp_path, tokenizer, known + spare)
    assert setting.inputs.added_ids == (known, known + 1)
    assert setting.inputs.config.vocab_size == max(known + spare, known + 2)
    found = initial(setting)["model"]
    old, new = (np.asarray(tree["embed_tokens"]["weight"]) for tree in (before, found))
    np.testing.assert_array_equal(new[:known], old[:known])
    np.testing.assert_array_equal(new[known + 2 :], old[known + 2 :])
    np.testing.assert_allclose(new[known : known + 2], np.tile(old[:known].mean(0), (2, 1)), atol=1e-6)
    np.testing.assert_array_equal(found["embedding_norm"]["weight"], before["embedding_norm"]["weight"])
    # What a stage trains on an adapter of is in no folder then.
    assert Setting.origin(SimpleNamespace(**vars(setting), with_models=lambda stage: []), PLAIN) is None


def test_tokens_that_the_model_knows_are_not_touched(tmp_path, tokenizer):
    before, setting = start(tmp_path, tokenizer.with_added(ADDED), 310)
    assert setting.inputs.added_ids == ()
    np.testing.assert_array_equal(initial(setting)["model"]["embed_tokens"]["weight"], before["embed_tokens"]["weight"])
    assert load_model(setting.run.model_from).config.vocab_size == 310


def test_a_model_without_a_vocabulary_of_its_own_is_left_as_it_is():
    config = preset("nano_dit")
    assert with_room(config, ()) == config
