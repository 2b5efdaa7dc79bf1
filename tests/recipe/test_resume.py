"""What of a run may change when it goes on, by the table; paths that lead to the same place; older configurations."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxpo.config import (
    SFT,
    Compute,
    Data,
    Images,
    Mesh,
    Mixed,
    Optimizer,
    OptimizerBase,
    Preference,
    Pretrain,
    Prometheus,
    Run,
    Stage,
    Tokenizer,
)
from jaxpo.config.serialise import read_again, to_jsonable
from jaxpo.recipe.located import absolute, identity, located
from jaxpo.recipe.resume import MAY_CHANGE, Changes, compare
from jaxpo.train.notify import RunCommand
from jaxpo.train.rundir import RunDir

STAGE = SFT(data=Data(train=("/d/x.jsonl",)), max_steps=8)
RUN = Run(stages=(Pretrain(max_steps=4), STAGE), tokenizer=Tokenizer(path="/d/tokenizer.json"))


def stored(run):
    return json.loads(json.dumps(to_jsonable(run)))


def with_stage(**fields):
    return dataclasses.replace(RUN, stages=(RUN.stages[0], dataclasses.replace(STAGE, **fields)))


def with_source(**fields):
    return with_stage(data=Data(mix=(("web", Mixed(files=("/d/x.jsonl",), **fields)),)))


def with_images(**fields):
    return with_stage(data=dataclasses.replace(STAGE.data, images=Images(**fields)))


def test_nothing_has_changed():
    found = compare(stored(RUN), RUN)
    assert found == Changes()


OTHER = {
    (Run, "name"): "another",
    (Run, "output_dir"): "elsewhere",
    (Run, "report_to"): ("tensorboard",),
    (Run, "prompts"): ("Hello?",),
    (Run, "export"): False,
    (Run, "prometheus"): Prometheus(port=9400),
    (Run, "alerts"): (),
    (Run, "on_alert"): (RunCommand(),),
    (Run, "mesh"): Mesh(fsdp=1, replica=-1),
    (Run, "mirror"): "memory://bucket",
    (Run, "hang_timeout"): 7.0,
    (Run, "hang_exit"): True,
    (Stage, "logging_steps"): 7,
    (Stage, "eval_steps"): 7,
    (Stage, "save_steps"): 7,
    (Stage, "save_total_limit"): 7,
    (Stage, "metric_for_best_model"): "loss",
    (Stage, "gradient_accumulation_steps"): 2,
    (OptimizerBase, "offload"): True,
    (Data, "max_bad_rows"): 7,
    (Mixed, "max_epochs"): 4.0,
    (Images, "cached"): True,
    (Compute, "remat"): "full",
    (Compute, "memory_gib"): 8.0,
    (Compute, "scan"): True,
    (Compute, "attention"): "xla",
    (Compute, "head_chunk"): 16,
    (Compute, "experts"): "blocks",
    (Compute, "conv"): "xla",
    (Compute, "peak_tflops"): 0.2,
}


def test_every_field_of_the_table_is_tried():
    assert set(OTHER) == {(cls, name) for cls, fields in MAY_CHANGE.items() for name in fields}


@pytest.mark.parametrize(("cls", "name"), OTHER, ids=lambda x: getattr(x, "__name__", x))
def test_what_changes_nothing_that_is_computed_may_change_and_is_said(cls, name):
    value = OTHER[cls, name]
    changed = {
        Run: lambda: dataclasses.replace(RUN, **{name: value}),
        Stage: lambda: with_stage(**{name: value}),
        Data: lambda: with_stage(data=dataclasses.replace(STAGE.data, **{name: value})),
        Mixed: lambda: with_source(**{name: value}),
        Images: lambda: with_images(**{name: value}),
        OptimizerBase: lambda: with_stage(optimizer=Optimizer(**{name: value})),
        Compute: lambda: dataclasses.replace(RUN, compute=Compute(**{name: value})),
    }[cls]()
    begun = {Mixed: with_source, Images: with_images}.get(cls, lambda: RUN)()
    found = compare(stored(begun), changed)
    assert not found.refused
    if name not in ("name", "output_dir"):
        assert found.said
        assert all(name in line and MAY_CHANGE[cls][name] in line for line in found.said)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (with_stage(rows_per_step=16), "sft.rows_per_step: 8 -> 16"),
        (with_stage(optimizer=dataclasses.replace(STAGE.optimizer, learning_rate=1.0)), "sft.optimizer.learning_rate"),
        (with_stage(optimizer=Optimizer(moments="int8")), 'sft.optimizer.moments: "float32" -> "int8"'),
        (with_stage(data=dataclasses.replace(STAGE.data, max_length=8)), "sft.data.max_length: 1024 -> 8"),
        (with_stage(snapshot_steps=4), "sft.snapshot_steps"),
        (with_stage(embedding_dropout=0.1), "sft.embedding_dropout"),
        (dataclasses.replace(RUN, compute=Compute(dtype="bfloat16")), 'compute.dtype: null -> "bfloat16"'),
        (dataclasses.replace(RUN, seed=1), "seed: 0 -> 1"),
        (dataclasses.replace(RUN, stages=RUN.stages[:1]), "stages.1: "),
        (dataclasses.replace(RUN, stages=(RUN.stages[0], Preference(name="sft", max_steps=8))), "sft.__type__"),
        (dataclasses.replace(RUN, model_from="/d/absent"), "model_from"),
    ],
    ids=lambda x: x.split(":")[0] if isinstance(x, str) else "",
)
def test_all_else_is_refused_by_the_name_that_the_command_line_gives_it(changed, line):
    assert any(refused.startswith(line) for refused in compare(stored(RUN), changed).refused)


def test_a_budget_is_left_to_the_schedule_whatever_its_unit():
    assert compare(stored(RUN), with_stage(max_steps=16)).budgets == ("sft",)
    changed = compare(stored(RUN), with_stage(max_steps=None, num_train_epochs=2.0))
    assert (changed.budgets, changed.said, changed.refused) == (("sft",), (), ())


def test_a_whole_number_is_the_same_as_an_integer_but_true_is_not():
    old = stored(RUN)
    old["stages"][1]["optimizer"]["max_grad_norm"] = 1
    assert not compare(old, RUN).refused
    old["stages"][1]["optimizer"]["max_grad_norm"] = True
    assert compare(old, RUN).refused == ("sft.optimizer.max_grad_norm: true -> 1.0",)


def test_fields_that_are_new_stood_at_their_defaults():
    """Whatever is taken out of a stored configuration that stands at its default now."""
    old = stored(RUN)
    del old["probes"], old["compute"]["experts"], old["mesh"]
    del old["stages"][0]["routing"], old["stages"][1]["data"]["fim"], old["stages"][1]["optimizer"]["lr_factors"]
    assert compare(old, RUN) == compare(stored(RUN), RUN)
    assert compare(old, with_stage(embedding_dropout=0.5)).refused == ("sft.embedding_dropout: 0.0 -> 0.5",)


def test_a_field_that_is_not_there_any_more_is_named():
    old = stored(RUN)
    old["stages"][1]["neftune_alpha"] = 5.0
    assert compare(old, RUN).refused == ("sft.neftune_alpha: 5.0 -> (absent)",)


def test_types_of_other_versions_and_places():
    old = stored(RUN)
    old["corpus"] = {"__type__": "jaxpo.data.recipe_corpus:RecipeCorpus"}
    assert read_again(old)["corpus"]["__type__"] == "jaxpo.corpora.recipe:RecipeCorpus"
    assert read_again({"__type__": "jaxpo.gone:Thing", "a": 1}) == {"__type__": "jaxpo.gone:Thing", "a": 1}


def test_relative_paths_are_found_here_or_where_the_run_began(tmp_path, monkeypatch):
    began, here = tmp_path / "began", tmp_path / "here"
    for folder in (began, here):
        folder.mkdir()
    for name in ("only.jsonl", "both.jsonl"):
        (began / name).touch()
    (here / "both.jsonl").touch()
    run = dataclasses.replace(
        RUN,
        output_dir=str(tmp_path),
        stages=(dataclasses.replace(STAGE, data=Data(train=("only.jsonl", "both.jsonl", "corpus:a", "none.jsonl"))),),
    )
    with RunDir(tmp_path / run.name) as home:
        home.keep_beginning({"directory": str(began)})
    monkeypatch.chdir(here)
    files = located(run).stages[0].data.train
    assert files == (str(began / "only.jsonl"), str(here / "both.jsonl"), "corpus:a", str(here / "none.jsonl"))
    assert located(located(run)) == located(run)


def test_an_earlier_version_tells_where_it_began_by_its_output_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "d.jsonl").touch()
    stage = dataclasses.replace(STAGE, data=Data(train=("d.jsonl",)))
    for output_dir, found in (("out/runs", True), ("other/runs", False), (str(tmp_path / "out" / "runs"), False)):
        run = dataclasses.replace(RUN, stages=(stage,), output_dir=output_dir)
        with RunDir(tmp_path / "out" / "runs" / run.name) as home:
            home.keep_config(to_jsonable(run))
        now = located(dataclasses.replace(run, output_dir=str(tmp_path / "out" / "runs")))
        assert (now.stages[0].data.train == (str(tmp_path / "d.jsonl"),)) == found


def test_every_path_of_a_recipe_and_no_word_of_it():
    stages = (
        SFT(name="sft", data=Data(train=("a.jsonl",), eval=("b/",)), init_from="start/here"),
        Preference(name="dpo", init_from="sft", data=Data(train=("stage:sft/x", "corpus:y"))),
    )
    run = absolute(Run(model_from="m", stages=stages, tokenizer=Tokenizer(path="t", train_on=("u",))), [Path("/r")])
    assert (run.model_from, run.tokenizer.path, run.tokenizer.train_on) == ("/r/m", "/r/t", ("/r/u",))
    assert run.stages[0].data == Data(train=("/r/a.jsonl",), eval=("/r/b",))
    assert run.stages[0].init_from == "/r/start/here"
    assert run.stages[1] == stages[1]


def test_another_path_to_the_same_thing(tmp_path):
    """A path of data says nothing, since the data are compared; of a model, what lies there must be the same."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"abc" if name != "three" else b"abd")
    (tmp_path / "two" / "metrics.jsonl").write_text("written since")
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    before = dataclasses.replace(RUN, model_from=one)
    for path, allowed in ((two, True), (three, False)):
        found = compare(stored(before), dataclasses.replace(RUN, model_from=path), bases=[tmp_path])
        assert bool(found.said) == allowed
        assert bool(found.refused) != allowed
    relative = stored(before) | {"model_from": "one"}
    assert not compare(relative, before, bases=[tmp_path / "two", tmp_path]).refused
    # Moved away since: what it was is known from the start.
    known = {one: identity(tmp_path / "one")}
    (tmp_path / "one").rename(tmp_path / "moved")
    moved = dataclasses.replace(RUN, model_from=str(tmp_path / "moved"))
    assert not compare(stored(before), moved, known=known).refused
    assert compare(stored(before), moved).refused
    data = dataclasses.replace(STAGE.data, train=("/elsewhere/x.jsonl",))
    found = compare(stored(RUN), with_stage(data=data))
    assert found.said == ('sft.data.train.0: "/d/x.jsonl" -> "/elsewhere/x.jsonl" (its content is compared)',)
