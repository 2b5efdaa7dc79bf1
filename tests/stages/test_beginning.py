"""Going on with a run: its configuration, data, budgets and blocks are as they were, or may be others."""

from __future__ import annotations

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpo.config import SFT, Data, Optimizer, Run, Tokenizer
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError, RunError
from jaxpo.stages import beginning, budget
from jaxpo.stages.beginning import begin, check_data
from jaxpo.stages.run_inputs import StageData
from jaxpo.train.console import Console
from jaxpo.train.optimizer import first_difference
from jaxpo.train.rundir import RunDir

STAGE = SFT(data=Data(train=("x.jsonl",)), max_steps=8, optimizer=Optimizer(lr_scheduler_type="constant"))


@pytest.fixture
def run(tmp_path):
    return Run(output_dir=str(tmp_path), stages=(STAGE,), tokenizer=Tokenizer(path="/d"))


def started(run, *, resume="auto"):
    """What a start says of the changes; until a step is logged a run is bound to nothing."""
    out = io.StringIO()
    with begin(run, resume, False, Console(out)) as (home, _, changes):
        home.metrics.write_text('{"stage": "sft", "step": 1}\n')
    return out.getvalue(), changes


def changed(run, **fields):
    return dataclasses.replace(run, stages=(dataclasses.replace(run.stages[0], **fields),))


def test_a_change_is_said_once_and_kept(run):
    assert started(run)[0] == ""
    other = changed(run, save_steps=3)
    assert started(other)[0] == "changed: sft.save_steps: 0 -> 3 (changes nothing that is computed)\n"
    assert started(other)[0] == ""


def test_a_change_of_what_is_computed_names_it_and_keeps_what_was_there(run):
    started(run)
    with pytest.raises(RunError, match=r"another configuration:\n  sft.rows_per_step: 8 -> 4\nTwo ways on: --run NEW"):
        started(changed(run, rows_per_step=4))
    assert started(run)[0] == ""


def test_a_budget_is_not_kept_before_its_schedule_was_asked(run):
    started(run)
    assert started(changed(run, max_steps=9))[1].budgets == ("sft",)
    assert started(run)[1].budgets == ()


def test_a_path_is_not_kept_before_its_content_was_compared(run, tmp_path):
    """`jaxpo run DIRECTORY` goes on after a start that named a wrong file."""
    started(run)
    other = changed(run, data=Data(train=("wrong.jsonl",)))
    assert started(other)[1].open
    assert RunDir(tmp_path / "run").stored_config()["stages"][0]["data"]["train"] == ["x.jsonl"]


def test_the_version_that_began_a_run_is_named_where_it_is_another(run, tmp_path, monkeypatch):
    monkeypatch.setattr(beginning, "__version__", "0.0.7")
    started(run)
    monkeypatch.setattr(beginning, "__version__", "0.9")
    with pytest.raises(RunError, match=r"It was begun by jaxpo 0\.0\.7, this is 0\.9: that version goes on with it"):
        started(changed(run, seed=1))
    # Of a version that did not say so, checkpoints may.
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RunError, match="begun by an earlier version of jaxpo, this is"):
        started(changed(run, seed=1))
    meta = tmp_path / "run" / "stages" / "sft" / "checkpoints" / "00000003" / "meta" / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"environment": {"jaxpo": "0.0.6"}}))
    with pytest.raises(RunError, match=r"begun by an earlier version of jaxpo \(0\.0\.6\), this is"):
        started(changed(run, seed=1))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["good bad open close"] * 4, 300)


@pytest.fixture
def data(tmp_path, tokenizer):
    """The tokenised rows of a file, in the run's cache."""

    def make(path, rows, **settings):
        path.write_text("".join(json.dumps({"prompt": "open ", "completion": row}) + "\n" for row in rows))
        settings = Data(max_length=32, row_length=32, **settings)
        cache = tmp_path / "run" / "data"
        return prepare(
            [path], data=settings, tokenizer=tokenizer, purpose="sft", cache_dir=cache, log=lambda line: None
        )

    return make


def test_the_file_that_changed_is_named_and_restoring_it_is_enough(data, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    with RunDir(tmp_path / "run") as home:
        before = StageData(data(one, ["good"]), data(two, ["bad"]))
        check_data(home, "sft", before)
        with pytest.raises(
            RunError, match=r"another data for stage sft:\n  eval: .*two.jsonl has changed\nRestore the"
        ):
            check_data(home, "sft", StageData(before.train, data(two, ["bad bad"])))
        with pytest.raises(RunError, match=r"train: .*one.jsonl is not read any more\n  train: .*two.jsonl is new"):
            check_data(home, "sft", StageData(data(two, ["close"]), data(two, ["bad"])))
        with pytest.raises(RunError, match=r"eval: .*two.jsonl is not read any more"):
            check_data(home, "sft", StageData(before.train, None))
        check_data(home, "sft", StageData(data(one, ["good"]), data(two, ["bad"])))
        # Elsewhere it is the same.
        check_data(home, "sft", StageData(data(tmp_path / "moved.jsonl", ["good"]), before.held_out))


def test_rows_that_are_the_same_under_another_hash_are_the_same(data, tmp_path):
    """An earlier version may have named them otherwise; an edit may not touch what is read."""
    file = tmp_path / "one.jsonl"
    with RunDir(tmp_path / "run") as home:
        check_data(home, "sft", StageData(data(file, ["good"]), None))
        check_data(home, "sft", StageData(data(file, ["good"], truncation="drop"), None))
        assert home.stored_data("sft")["train"] == data(file, ["good"], truncation="drop").hash
        home.keep_data("sft", {"train": "0" * 64, "eval": None})
        with pytest.raises(RunError, match=r"one.jsonl: read into other rows than when .* an earlier version of jaxpo"):
            check_data(home, "sft", StageData(data(file, ["good"]), None))


@pytest.mark.parametrize(
    ("schedule", "warmup", "before", "after", "taken", "step"),
    [
        ("constant", {}, 8, 16, 8, None),
        ("constant", {"warmup_steps": 3}, 8, 16, 8, None),
        ("constant", {"warmup_ratio": 0.5}, 8, 16, 8, 0),
        ("wsd", {}, 10, 20, 8, None),
        ("wsd", {}, 10, 20, 9, None),
        ("wsd", {}, 10, 20, 10, 9),
        ("wsd", {}, 20, 10, 8, None),
        ("linear", {}, 8, 16, 1, None),
        ("linear", {}, 8, 16, 4, 1),
        ("cosine", {}, 8, 16, 4, 1),
        ("cosine", {"warmup_steps": 3}, 8, 16, 4, None),
        ("cosine", {}, 8, 16, 0, None),
    ],
)
def test_a_schedule_allows_what_leaves_the_steps_taken_as_they_were(schedule, warmup, before, after, taken, step):
    config = Optimizer(lr_scheduler_type=schedule, decay_ratio=0.2, **warmup)
    found = first_difference(config, before, after, taken)
    assert (found and found[0]) == step
    if found is not None:
        assert found[1] != found[2]


class Reopened(Exception):
    pass


@pytest.fixture
def change(run, tmp_path, monkeypatch):
    """`change(stage before, stage now, resume, steps saved)`: what is said; its later stage has begun if asked."""

    def make(before, now, *, saved=(8,), resume="auto", later=False, finished=True):
        home = RunDir(tmp_path / "run")
        for step in saved:
            (home.stage("sft") / "checkpoints" / f"{step:08d}").mkdir(parents=True, exist_ok=True)
        stages = (now, SFT(name="next", data=Data(train=("y",)), max_steps=1))
        if later:
            (home.stage("next") / "checkpoints" / "00000001").mkdir(parents=True, exist_ok=True)
        if finished:
            (home.stage("sft") / "model" / "00000000").mkdir(parents=True, exist_ok=True)
            home.finish({})
        out = io.StringIO()
        setting = SimpleNamespace(
            home=home,
            run=dataclasses.replace(run, stages=stages),
            console=Console(out),
            inputs=SimpleNamespace(of=lambda stage: None),
        )
        loader = SimpleNamespace(total_steps=lambda stage: stage.max_steps or int(stage.num_train_epochs * 10))
        monkeypatch.setitem(budget.SOURCES, "train", lambda *arguments: {"train": loader})
        monkeypatch.setattr(budget, "set_damaged_aside", lambda store, say: None)  # these are names of folders alone
        stored = {"stages": [dataclasses.asdict(before), dataclasses.asdict(stages[1])]}
        budget.change_budgets(setting, ["sft"], stored, resume)
        return out.getvalue(), home

    return make


def test_a_finished_stage_goes_on_and_is_not_finished_any_more(change):
    longer = dataclasses.replace(STAGE, max_steps=None, num_train_epochs=2)
    said, home = change(STAGE, longer)
    assert said.startswith("changed: sft: max_steps 8 -> num_train_epochs 2 (8 -> 20 steps")
    assert home.finished() is None
    assert [p.name for p in home.stage("sft").iterdir()] == ["checkpoints"]


def test_why_a_budget_stays_is_said(change):
    cosine = dataclasses.replace(STAGE, optimizer=Optimizer())
    with pytest.raises(RunError, match=r"'cosine' schedule depends .* step 2 was taken with .*--model-from .*sft\."):
        change(cosine, dataclasses.replace(cosine, max_steps=16))
    with pytest.raises(RunError, match="next, which follows it, has begun"):
        change(STAGE, dataclasses.replace(STAGE, max_steps=16), later=True)


def test_before_a_decay_one_can_go_back(change):
    wsd = dataclasses.replace(STAGE, optimizer=Optimizer(lr_scheduler_type="wsd", decay_ratio=0.5))
    longer = dataclasses.replace(wsd, max_steps=16)
    with pytest.raises(RunError, match=r"--resume 4 goes back to before that"):
        change(wsd, longer, saved=(4, 7))
    assert "those taken are the same" in change(wsd, longer, saved=(4, 7), resume=4)[0]


def test_what_was_saved_after_the_step_gone_back_to_does_not_wait_for_the_next_start(tmp_path):
    """That start may come without `--resume`, and would take steps of the old length for steps of the new one."""
    home = RunDir(tmp_path / "run")
    folder = home.stage("sft") / "checkpoints"
    for step in (4, 7):
        (folder / f"{step:08d}").mkdir(parents=True)
    budget.go_back(SimpleNamespace(home=home), ["sft"], "auto")
    assert len(list(folder.iterdir())) == 2
    budget.go_back(SimpleNamespace(home=home), ["sft"], 4)
    assert [path.name for path in folder.iterdir()] == ["00000004"]


def test_without_a_checkpoint_the_finished_model_stays(change, tmp_path):
    with pytest.raises(RunError, match="holds no checkpoint to go on from"):
        change(STAGE, dataclasses.replace(STAGE, max_steps=16), saved=())
    with pytest.raises(RunError, match=r"--resume 3: .* has checkpoints of steps \[8\]"):
        change(STAGE, dataclasses.replace(STAGE, max_steps=16), resume=3)
    assert (tmp_path / "run" / "stages" / "sft" / "model").is_dir()
    assert (tmp_path / "run" / "finished.json").is_file()


def test_fewer_steps_than_were_taken(change):
    with pytest.raises(RunError, match="8 steps have been taken, more than the 6"):
        change(STAGE, dataclasses.replace(STAGE, max_steps=6), finished=False)


def test_a_stage_without_a_step_may_have_any_budget(change):
    assert (
        "no step was taken yet" in change(STAGE, dataclasses.replace(STAGE, max_steps=2), saved=(), finished=False)[0]
    )


def test_blocks_stay_as_they_were(data, tmp_path):
    """A stage that began in other blocks than would be chosen now keeps them."""
    dataset = data(tmp_path / "x.jsonl", ["good " * (n % 5 + 1) for n in range(60)])
    settings = Data(max_length=32, row_length=32)
    first = Loader(dataset, dataclasses.replace(settings, block_rows=4), seed=0, rows_per_step=8)
    later = Loader(dataset, settings, seed=0, rows_per_step=8, divisor=2, caps=first.caps)
    assert later.hash == first.hash != Loader(dataset, settings, seed=0, rows_per_step=8).hash
    for step in range(3):
        np.testing.assert_array_equal(later.batch(8 * step).tokens, first.batch(8 * step).tokens)
    message = r"is 2 blocks of 4 rows, which 8 cannot share evenly: .* one of 1, 2\. The stage began with these blocks"
    with pytest.raises(ConfigError, match=message):
        Loader(dataset, settings, seed=0, rows_per_step=8, divisor=8, caps=first.caps)
