"""A model's own tokenizer is used with it; another one is refused unless the embedding is said to be new."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stages.recipe as recipes
import tokenizers
from fakes.chat_templates import DEFAULT_SYSTEM

from jaxpo.config import SFT, Data, Denoise, Run, Tokenizer
from jaxpo.convert.config_json import config_to_json
from jaxpo.data.tokenizer.tokenizer import Tokenizer as Loaded
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.merging.files import template_lines
from jaxpo.stages.run_inputs import RunInputs, make_inputs
from jaxpo.stages.run_tokenizer import run_tokenizer

ROW = {"messages": [{"role": "user", "content": "open"}, {"role": "assistant", "content": "close"}]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint without weights: its configuration and its tokenizer, with a chat template of its own."""
    folder = tmp_path / "model"
    train_tokenizer(["good bad open close"] * 4, 300).save(folder)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<|startoftext|>"}')
    (folder / "chat_template.jinja").write_text(DEFAULT_SYSTEM)
    (folder / "config.json").write_text(json.dumps(config_to_json(recipes.MODEL, "float32")))
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    train_tokenizer(["entirely different words"] * 4, 290).save(folder)
    return folder


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunInputs, list[str]]]:
    """What a run does first: `inputs(model_from=..., path=...)` -> its inputs, and what it said."""

    monkeypatch.setattr("jaxpo.stages.run_inputs.check_files", lambda folder: None)  # there are no weights

    def make(init_from: str = "previous", model_from: Any = None, **tokenizer: Any) -> tuple[RunInputs, list[str]]:
        (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
        data = Data(train=(str(tmp_path / "rows.jsonl"),), max_length=64, row_length=64)
        given = {name: str(value) if isinstance(value, Path) else value for name, value in tokenizer.items()}
        run = Run(
            model=recipes.MODEL,
            model_from=None if model_from is None else str(model_from),
            tokenizer=dataclasses.replace(Tokenizer(), **given),
            stages=(SFT(data=data, max_steps=1, init_from=init_from),),
        )
        if problems := list(find_problems(run)):
            raise ConfigError(problems)
        said: list[str] = []
        return make_inputs(run, tmp_path / "run", said.append), said

    return make


def test_a_models_own_is_used(inputs, model, tmp_path):
    found, said = inputs(model_from=model)
    assert found.tokenizer.hash == Loaded.load(model).hash
    assert f"that of {model}" in "\n".join(said)
    assert any("chat template: the checkpoint's own is used" in line for line in said)
    (example,) = found.stages["sft"].train.store.read(range(1))
    text = found.tokenizer.decode(example.segments[0].tokens, skip_special_tokens=False)
    assert "You are Acme Bot." in text
    kept = Loaded.load(tmp_path / "run" / "tokenizer")
    assert (kept.template, kept.hash) == (DEFAULT_SYSTEM, found.tokenizer.hash)


def test_that_of_the_folder_that_a_stage_starts_from_counts_too(inputs, model, other):
    with pytest.raises(ConfigError, match=r"tokenizer: is not that of sft.init_from .*/model \(\d+ tokens instead of"):
        inputs(init_from=str(model), path=other)
    inputs(init_from=str(model), path=model)


def test_another_is_refused(inputs, model, other):
    with pytest.raises(ConfigError, match=r"is not that of model_from .* --tokenizer.new-embedding to learn"):
        inputs(model_from=model, path=other)
    with pytest.raises(ConfigError, match=r"tokenizer.train_on: a tokenizer that is trained on .* is not that of"):
        inputs(model_from=model, train_on=(str(model / "tokenizer_config.json"),), vocab_size=270)


def test_unless_the_embedding_is_new(inputs, model, other):
    found, said = inputs(model_from=model, path=other, new_embedding=True)
    assert found.tokenizer.hash == Loaded.load(other).hash
    assert any("taken over by their numbers and stand for other tokens now" in line for line in said)


def test_added_tokens_are_no_other_tokenizer(inputs, model, tmp_path):
    more = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    more.add_special_tokens([tokenizers.AddedToken("<|speaker_a|>", special=True, normalized=False)])
    (tmp_path / "more").mkdir()
    more.save(str(tmp_path / "more" / "tokenizer.json"))
    found, said = inputs(model_from=model, path=tmp_path / "more")
    assert "<|speaker_a|>" in found.tokenizer.special_ids
    assert any("differs in added tokens alone (<|speaker_a|>); theirs are the rows" in line for line in said)


def test_another_template_than_the_models_is_said(inputs, model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    _, said = inputs(model_from=model, path=tmp_path / "bare")
    assert any("has another chat template than" in line for line in said)


def test_stages_that_read_captions_are_not_told_of_templates(model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    for stages, told in (((Denoise(),), 0), ((Denoise(), SFT()), 1)):
        said: list[str] = []
        run = Run(tokenizer=Tokenizer(path=str(tmp_path / "bare")), stages=stages)
        run_tokenizer(run, tmp_path / f"run{told}", (), said.append)
        assert sum("holds no chat template" in line for line in said) == told


def test_a_model_without_a_tokenizer(inputs, model, other):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no tokenizer beside .*/model; name the model's own with"):
        inputs(model_from=model)
    _, said = inputs(model_from=model, path=other)
    assert any("its tokenizer is unknown" in line for line in said)


def test_a_merge_says_whose_template_it_keeps(model, other):
    models = {name: SimpleNamespace(tokenizer=Loaded.load(path)) for name, path in (("a", model), ("b", other))}
    models["c"] = SimpleNamespace(tokenizer=None)
    assert template_lines(models) == ["chat template: that of a; b has another"]
    assert template_lines({"a": models["a"], "c": models["c"], "d": models["a"]}) == []


def test_a_vocabulary_grows_by_the_tokens_that_are_added(inputs, model):
    found, said = inputs(model_from=model, added=("[Q] ",))
    assert found.added_ids == (found.tokenizer.id_of("[Q] "),)
    assert "1 tokens are new to" in "\n".join(said)
    assert found.config.vocab_size == max(recipes.MODEL.vocab_size, found.added_ids[0] + 1)
