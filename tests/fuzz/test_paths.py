"""Names that stand in files, and links, lead nowhere outside of the folder that is read or written."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
from fuzz.targets import checkpoint, model, tokenizer
from models.tiny import CONFIG, params

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Pretrain, Run
from jaxpo.config.serialise import find_type, from_jsonable
from jaxpo.convert.hf import export_hf
from jaxpo.convert.kept import stage_folder
from jaxpo.convert.shards import INDEX, open_shards
from jaxpo.corpora.files import reusable, write
from jaxpo.data.rows.formats import list_files
from jaxpo.errors import CheckpointError, ConfigError, DataError
from jaxpo.recipe.checks.run import find_problems

OUTSIDE = ("../secret", "../../secret", "/etc/hostname", "a/../../secret", "..", "")


@pytest.fixture
def secret(tmp_path):
    """A file beside the folder that is read; it must stay what it is."""
    file = tmp_path / "secret"
    file.write_text("kept")
    yield file
    assert file.read_text() == "kept"


@pytest.mark.parametrize("name", OUTSIDE)
def test_shards_lie_in_their_folder(tmp_path, secret, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="no name of a file in the folder"), open_shards(folder):
        pass


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_files_of_a_saved_data_set_lie_in_its_folder(tmp_path, secret, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (folder / "data.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match="is not there"):
        list_files([folder])


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_stage_lies_in_its_run(tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(checkpoint(), tmp_path / "secret")
    (run / "stages").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"stages": [{"name": name}]}))
    with pytest.raises(CheckpointError, match="names no stages"):
        stage_folder(run)


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_runs_and_stages_are_names_of_folders(name):
    assert any(problem.startswith("name: ") for problem in find_problems(Run(name=name, stages=(Pretrain(name="x"),))))
    stage = {"__type__": "jaxpo.config:Pretrain", "name": name}
    run = from_jsonable({"__type__": "jaxpo.config:Run", "name": "x", "stages": [stage]})
    assert any("names a folder" in problem for problem in find_problems(run))


def test_a_corpus_is_its_own_files(tmp_path, secret):
    folder = tmp_path / "corpus"
    report = write(folder, {"a.jsonl": [{"text": "a"}]}, {"inputs": "i"})
    assert reusable(folder, "i") == report
    (tmp_path / "outside.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    report["files"] = {"../outside.jsonl": report["files"]["a.jsonl"]}
    (folder / "corpus.json").write_text(json.dumps(report))
    assert reusable(folder, "i") is None


def test_an_export_replaces_links_and_does_not_follow_them(tmp_path, secret):
    target, outside = tmp_path / "out", tmp_path / "folder"
    target.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (target / name).symlink_to(secret)
    (target / "additional_chat_templates").symlink_to(outside)
    (tmp_path / ".out.old").symlink_to(outside)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").symlink_to(secret)
    with contextlib.suppress(OSError):  # a link in the place of its own folders may stop it
        export_hf(params(), CONFIG, target, verify=False, overwrite=True, tokenizer=tokenizer())
    assert [path.name for path in outside.iterdir()] == ["kept"]
    (tmp_path / ".out.old").unlink()
    shutil.rmtree(target, ignore_errors=True)
    export_hf(params(), CONFIG, target, verify=False, overwrite=True, tokenizer=tokenizer())
    assert not any(path.is_symlink() for path in target.iterdir())


def test_checkpoints_that_are_links_are_not_emptied(tmp_path, secret):
    outside = tmp_path / "outside"
    shutil.copytree(checkpoint() / "model" / "00000000", outside)
    before = sorted(outside.rglob("*"))
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    store.directory.mkdir()
    (store.directory / "00000007").symlink_to(outside)
    with contextlib.suppress(OSError):
        store.discard_after(0)
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["jaxpo.py:X", "jaxpo./x.py:X", "os:stat_result", "jaxpo.config.serialise:json.JSONDecoder"]
)
def test_no_code_comes_from_a_name_in_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jaxpo.").mkdir()
    for file in ("jaxpo.py", "jaxpo./x.py"):
        (tmp_path / file).write_text("raise SystemExit('executed')")
    with pytest.raises(ConfigError):
        find_type(name, where="config", trust_files=False)


def test_links_inside_a_model_folder_are_read(tmp_path):
    """As in the cache of the Hugging Face Hub, where every file of a snapshot is a link to a blob."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for file in model().iterdir():
        (folder / file.name).symlink_to(file)
    with open_shards(folder) as found:
        assert len(found) > 5
