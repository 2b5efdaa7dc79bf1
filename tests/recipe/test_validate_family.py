"""What a run may ask of a model whose family cannot do everything."""

import dataclasses

from fakes.linear_rnn import ENTRY, LinearRNNConfig

from jaxpo.config import Pretrain
from jaxpo.models.family import FAMILIES
from jaxpo.recipe.checks.run import find_problems


def test_a_run_is_told_before_it_starts(recipe, monkeypatch):
    monkeypatch.setitem(FAMILIES, *ENTRY)
    run = dataclasses.replace(recipe, model=LinearRNNConfig(vocab_size=70_000), prompts=("hi",), export=True)
    found = [p for p in find_problems(run) if "linear rnn" in p]
    assert found == [
        "export: a model of the family 'linear rnn' has no Hugging Face form; --export False.",
        "prompts: a model of the family 'linear rnn' cannot generate; leave them empty.",
    ]
    assert not any("linear rnn" in p for p in find_problems(dataclasses.replace(run, prompts=(), export=False)))
    unknown = dataclasses.replace(recipe, model=Pretrain())
    assert any(p.startswith("model: Pretrain is the configuration of no family") for p in find_problems(unknown))
