"""generation_config.json of a checkpoint: its own, through import, training, merging and export."""

import json

import pytest
from models.tiny import CONFIG, params

from jaxpo.cli.main import main
from jaxpo.cli.sampling_options import add_options, sampler_of
from jaxpo.config import SFT, Data, Run
from jaxpo.convert.generation import end_ids, read_generation
from jaxpo.convert.hf import export_hf
from jaxpo.convert.model_io import load_model, near_generation, save_model
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.stages.run_generation_config import keep_generation_of_start

OWN = {"eos_token_id": [7, 2], "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "do_sample": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation") / "model"
    export_hf(params(), CONFIG, folder, generation=OWN, verify=False)
    return folder


def stored(folder):
    return json.loads((folder / "generation_config.json").read_text())


def test_the_file_is_the_models_own_with_the_ids_that_it_leaves_out(checkpoint, tmp_path):
    assert stored(checkpoint) == {"_from_model_config": False, "bos_token_id": 1, "pad_token_id": 0, **OWN}
    export_hf(params(), CONFIG, tmp_path / "plain", verify=False)
    plain = {"_from_model_config": False, "bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0}
    assert stored(tmp_path / "plain") == plain


def test_import_export_and_both_kinds_of_merge_keep_it(checkpoint, tmp_path, capsys):
    whole = stored(checkpoint)
    bare, imported, out = tmp_path / "bare", tmp_path / "imported", tmp_path / "out"
    export_hf(params(), CONFIG, bare, verify=False)
    (bare / "generation_config.json").unlink()
    assert near_generation(bare) is None
    assert main(["import", str(checkpoint), str(imported), "--no-verify"]) == 0
    assert near_generation(imported) == load_model(imported).generation == whole
    assert main(["export", str(imported), str(out), "--no-verify"]) == 0
    assert stored(out) == whole
    for kind in ("hf", "jaxpo"):
        merged = tmp_path / kind
        argv = ["merge", bare, out, "--out", merged, "--format", kind, "--no-verify"]
        assert main([str(word) for word in argv]) == 0
        assert stored(merged) == whole
    assert "generation_config.json is that of" not in capsys.readouterr().out


def test_a_merge_says_whose_is_kept_when_they_differ(checkpoint, tmp_path, capsys):
    other = tmp_path / "other"
    export_hf(params(), CONFIG, other, generation={**OWN, "temperature": 1.0}, verify=False)
    argv = ["merge", other, checkpoint, "--out", tmp_path / "m", "--no-verify"]
    assert main([str(word) for word in argv]) == 0
    assert f"generation_config.json is that of {other}; {checkpoint} had another" in capsys.readouterr().out
    assert stored(tmp_path / "m")["temperature"] == 1.0


def test_a_run_whose_first_stage_names_its_model_keeps_that_models(checkpoint, tmp_path):
    tokenizer = train_tokenizer(["to be or not"] * 4, 290)
    stage = SFT(init_from=str(checkpoint), data=Data(train=("x.jsonl",)), max_steps=1)
    keep_generation_of_start(Run(stages=(stage,)), tmp_path, tokenizer, print)
    assert stored(tmp_path) == stored(checkpoint)


def test_a_stage_of_a_run_finds_that_of_its_run(checkpoint, tmp_path):
    stage = tmp_path / "run" / "stages" / "sft"
    save_model(stage, {"model": params()}, CONFIG, {"stage": "sft", "trained_on": "x"})
    assert near_generation(stage) is None
    (tmp_path / "run" / "generation_config.json").write_text(json.dumps(OWN))
    assert near_generation(stage) == load_model(stage).generation == OWN


def test_several_ends_in_config_json_are_kept_too(tmp_path):
    export_hf(params(), CONFIG, tmp_path / "m", verify=False)
    (tmp_path / "m" / "generation_config.json").unlink()
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [7, 2]}))
    model = load_model(tmp_path / "m")
    assert model.config.eos_token_id == 7
    assert model.generation == {"eos_token_id": [7, 2]}
    assert end_ids(model.generation, 7) == (7, 2)
    assert end_ids(None, 7) == (7,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ('{"eos_token_id": ["a"]}', "eos_token_id is 'a'; it must be a list of whole numbers"),
        ('{"eos_token_id": -1}', "eos_token_id is -1"),
        ('{"temperature": "hot"}', "temperature is 'hot'; it must be a number"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"generation_config.json: .*{message}"):
        read_generation(tmp_path)


def test_chat_takes_the_models_settings_where_no_option_is_given():
    from jaxpo.cli.args import Parser

    def sampler(own, *argv):
        parser = Parser("chat", "")
        add_options(parser, own=True, temperature=0.3, min_p=0.15, repetition_penalty=1.05)
        return sampler_of(parser.parse(["model", *argv]), own)

    assert sampler(None).temperature == 0.3
    assert sampler({"temperature": 0.7, "top_k": 50}).temperature == 0.7
    assert sampler({"temperature": 0.7, "top_k": 50}).top_k == 50
    assert sampler({"temperature": 0.7}, "--temperature", "0").greedy
    assert sampler({"temperature": 0.7, "do_sample": False}).greedy
    assert sampler({"top_p": None}).top_p == 1.0
