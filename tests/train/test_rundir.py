"""RunDir: the lock, changed configuration and data, restart, finished runs."""

import json
import subprocess
import sys

import pytest

from jaxpo.errors import RunError
from jaxpo.train.files import write_json
from jaxpo.train.rundir import RunDir, changed_fields

CONFIG = {
    "name": "a",
    "stages": [{"name": "sft", "optimizer": {"learning_rate": 3e-4}, "data": {"train": ["x.jsonl"]}}],
}


def changed(lr=3e-4, **more):
    config = json.loads(json.dumps(CONFIG))
    config["stages"][0]["optimizer"]["learning_rate"] = lr
    return config | more


def test_same_configuration_is_accepted_and_stored(tmp_path):
    with RunDir(tmp_path / "r") as run:
        run.check_config(CONFIG)
    with RunDir(tmp_path / "r") as run:
        run.check_config(CONFIG)
    assert json.loads((tmp_path / "r" / "config.json").read_text()) == CONFIG


def test_changed_configuration_names_fields_and_both_ways_on(tmp_path):
    with RunDir(tmp_path / "r") as run:
        run.check_config(CONFIG)
        with pytest.raises(RunError) as error:
            run.check_config(changed(1e-3, seed=1))
    message = str(error.value)
    assert f"{tmp_path / 'r'} was made with another configuration" in message
    assert "stages.0.optimizer.learning_rate: 0.0003 -> 0.001" in message
    assert "seed: (absent) -> 1" in message
    assert "stages.0.name" not in message
    assert "--run NEW" in message
    assert "--restart (moves this one aside to r.1 and starts over)" in message
    assert json.loads((tmp_path / "r" / "config.json").read_text()) == CONFIG


def test_ignored_fields_may_change(tmp_path):
    with RunDir(tmp_path / "r") as run:
        run.check_config(CONFIG | {"report_to": []})
        run.check_config(CONFIG | {"report_to": ["wandb"]}, ignore=("report_to",))
        with pytest.raises(RunError, match="name: "):
            run.check_config(CONFIG | {"name": "b", "report_to": []}, ignore=("report_to",))


def test_changed_data_names_the_stage_and_hashes(tmp_path):
    with RunDir(tmp_path / "r") as run:
        run.check_data("sft", {"hash": "aaa", "files": ["x.jsonl"]})
        run.check_data("dpo", {"hash": "ccc"})
        run.check_data("sft", {"hash": "aaa", "files": ["x.jsonl"]})
        with pytest.raises(RunError, match=r'another data for stage sft:\n  hash: "aaa" -> "bbb"\n.*--run NEW'):
            run.check_data("sft", {"hash": "bbb", "files": ["x.jsonl"]})


def test_restart_moves_the_old_directory_aside(tmp_path):
    for text in ("first", "second"):
        with RunDir(tmp_path / "r", restart=True) as run:
            run.check_config(CONFIG)
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
        first.check_config(CONFIG)
        second.check_config(CONFIG)
        second.check_data("sft", {"hash": "x"})
        second.finish({})
        assert not (first.path / "data.json").exists()
        assert first.finished() is None
        with pytest.raises(RunError, match="learning_rate"):
            second.check_config(changed(1.0))


def test_finished_run_says_where_the_results_are(tmp_path):
    with RunDir(tmp_path / "r") as run:
        assert run.finished() is None
        run.finish({"report": "report.html", "model": "export"})
    with RunDir(tmp_path / "r") as run:
        assert run.finished() == {"results": {"report": "report.html", "model": "export"}}
        assert f"report: {tmp_path / 'r' / 'report.html'}" in run.finished_message()
        assert "--run NEW" in run.finished_message()


def test_changed_fields():
    assert changed_fields({"a": [1, 2], "b": {"c": None}}, {"a": [1, 2], "b": {"c": None}}) == []
    assert changed_fields({"a": [1, 2]}, {"a": [1]}) == [("a.1", "2", "(absent)")]
    assert changed_fields({"a": 1}, {"a": True}) == [("a", "1", "true")]
    assert changed_fields({"a": {"b": 1}}, {"a": None}) == [("a", '{"b": 1}', "null")]


def test_broken_files_are_named(tmp_path):
    with RunDir(tmp_path / "r") as run:
        (run.path / "config.json").write_text("{")
        with pytest.raises(RunError, match=r"config\.json is not valid JSON .*--restart"):
            run.check_config(CONFIG)


def test_failed_write_keeps_the_old_content(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    with pytest.raises(RunError, match=r"nowhere.*cannot be written"):
        write_json(tmp_path / "nowhere" / "a.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_start_that_trained_nothing_binds_to_nothing(tmp_path):
    with RunDir(tmp_path / "run") as home:
        home.check_config({"a": 1})
        (home.path / "tokenizer").mkdir()
        (home.path / "summary.json").write_text("{}")
    with RunDir(tmp_path / "run") as home:
        assert not home.begun
        home.forget_start()
        home.check_config({"a": 2})
        assert not (home.path / "tokenizer").exists()
        assert not (home.path / "summary.json").exists()
        home.metrics.write_text('{"stage": "sft", "step": 1}\n')
    with RunDir(tmp_path / "run") as home:
        assert home.begun
        home.forget_start()
        with pytest.raises(RunError, match="a: 2 -> 3"):
            home.check_config({"a": 3})
