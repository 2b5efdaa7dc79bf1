"""RunDir: the lock, changed configuration and data, restart, finished runs."""

import json
import subprocess
import sys

import pytest

from jaxpo.errors import RunError
from jaxpo.train.files import write_json
from jaxpo.train.rundir import RunDir

CONFIG = {"name": "a", "stages": [{"name": "sft", "data": {"train": ["x.jsonl"]}}]}


def test_a_refusal_names_fields_and_both_ways_on(tmp_path):
    with RunDir(tmp_path / "r") as run:
        message = str(run.refusal("configuration", [f"seed: 0 -> {n}" for n in range(23)], "Try this. "))
    assert f"{tmp_path / 'r'} was made with another configuration:\n  seed: 0 -> 0\n" in message
    assert "... and 3 more\nTry this. Two ways on: --run NEW" in message
    assert "--restart (moves this one aside to r.1 and starts over)" in message


def test_configuration_data_and_beginning_are_kept(tmp_path):
    with RunDir(tmp_path / "r") as run:
        assert (run.stored_config(), run.stored_data("sft"), run.beginning()) == (None, None, {})
        run.keep_config(CONFIG)
        run.keep_data("sft", {"train": "a"})
        run.keep_data("dpo", {"train": "b"})
        run.keep_beginning({"jaxpo": "1"})
    with RunDir(tmp_path / "r") as run:
        assert (run.stored_config(), run.stored_data("sft"), run.stored_data("dpo")) == (
            CONFIG,
            {"train": "a"},
            {"train": "b"},
        )
        assert run.beginning() == {"jaxpo": "1"}


def test_a_stage_that_is_reopened_is_as_if_it_had_never_ended(tmp_path):
    with RunDir(tmp_path / "r") as run:
        for part in ("model", "ema", "checkpoints"):
            (run.stage("sft") / part).mkdir()
        write_json(run.path / "summary.json", {"probes": {"initial": {}, "sft": {"a": 1}}, "seconds": {"sft": 2.0}})
        write_json(run.path / "samples.json", {"sft": [], "pretrain": []})
        run.finish({})
        run.reopen("sft", ("model", "ema", "last"))
        assert run.finished() is None
        assert [p.name for p in run.stage("sft").iterdir()] == ["checkpoints"]
        assert json.loads((run.path / "summary.json").read_text()) == {
            "probes": {"initial": {}},
            "seconds": {"sft": 2.0},
        }
        assert json.loads((run.path / "samples.json").read_text()) == {"pretrain": []}


def test_restart_moves_the_old_directory_aside(tmp_path):
    for text in ("first", "second"):
        with RunDir(tmp_path / "r", restart=True) as run:
            run.keep_config(CONFIG)
            (run.path / "mark").write_text(text)
    with RunDir(tmp_path / "r", restart=True) as run:
        assert run.moved_to == tmp_path / "r.2"
        assert [p.name for p in run.path.iterdir()] == ["lock"]
    assert (tmp_path / "r.1" / "mark").read_text() == "first"
    assert (tmp_path / "r.2" / "mark").read_text() == "second"


def test_restart_of_an_absent_directory_moves_nothing(tmp_path):
    with RunDir(tmp_path / "r", restart=True) as run:
        assert run.moved_to is None


HOLD = """
import sys
from jaxpo.train.rundir import RunDir
with RunDir(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_names_the_holder_and_dies_with_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "r")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    for restart in (False, True):
        with (
            pytest.raises(RunError, match=f"is in use by process {holder.pid} on .*--run NEW"),
            RunDir(tmp_path / "r", restart=restart),
        ):
            pass
    holder.kill()
    holder.communicate()
    with RunDir(tmp_path / "r"):
        pass


def test_a_secondary_process_neither_locks_nor_writes(tmp_path):
    with RunDir(tmp_path / "r") as first, RunDir(tmp_path / "r", primary=False) as second:
        second.keep_config(CONFIG)
        second.keep_data("sft", {"hash": "x"})
        second.keep_beginning({"jaxpo": "1"})
        second.finish({})
        second.reopen("sft", ("model",))
        assert [p.name for p in first.path.iterdir()] == ["lock"]


def test_finished_run_says_where_the_results_are(tmp_path):
    with RunDir(tmp_path / "r") as run:
        assert run.finished() is None
        run.finish({"report": "report.html", "model": "export"})
    with RunDir(tmp_path / "r") as run:
        assert run.finished() == {"results": {"report": "report.html", "model": "export"}}
        assert f"report: {tmp_path / 'r' / 'report.html'}" in run.finished_message()
        assert "--run NEW" in run.finished_message()


def test_broken_files_are_named(tmp_path):
    with RunDir(tmp_path / "r") as run:
        (run.path / "config.json").write_text("{")
        with pytest.raises(RunError, match=r"config\.json is not valid JSON .*--restart"):
            run.stored_config()


def test_failed_write_keeps_the_old_content(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    with pytest.raises(FileNotFoundError) as error:
        write_json(tmp_path / "nowhere" / "a.json", {})
    assert error.value.filename == str(tmp_path / "nowhere" / "a.json")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_start_that_trained_nothing_binds_to_nothing(tmp_path):
    with RunDir(tmp_path / "run") as home:
        home.keep_config({"a": 1})
        home.keep_beginning({"jaxpo": "1"})
        (home.path / "tokenizer").mkdir()
        (home.path / "summary.json").write_text("{}")
        (home.path / "generation_config.json").write_text("{}")  # of the model that was named then
    with RunDir(tmp_path / "run") as home:
        assert not home.begun
        home.forget_start()
        assert [p.name for p in home.path.iterdir()] == ["lock"]
        home.keep_config({"a": 2})
        home.metrics.write_text('{"stage": "sft", "step": 1}\n')
    with RunDir(tmp_path / "run") as home:
        assert home.begun
        home.forget_start()
        assert home.stored_config() == {"a": 2}
