"""Distillation as a stage: a teacher of its own shape in the same recipe, records or network, and what is refused."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages import process

from jaxpo.cli.main import main
from jaxpo.config import Distill, Merge, Pretrain
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.data.packing.teacher_records import read_meta
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.run import check, find_problems
from jaxpo.recipe.kinds import method_of
from jaxpo.recipe.overrides import resolve_run
from jaxpo.stages.results import Results
from jaxpo.stages.run import execute
from jaxpo.train.metrics import TIMING, read_metrics

pytestmark = pytest.mark.usefixtures("one_device")
LARGE = dataclasses.replace(recipes.MODEL, hidden_size=48, layer_types=("conv", "conv", "full_attention"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    recipes.write_data(folder)
    return folder


def recipe(folder, **changes):
    """A teacher of its own shape, a student from random weights, then distillation on texts."""
    whole = recipes.recipe(folder, prompts=("the cat",))
    base = whole.stages[0]
    short = {"max_steps": 4, "eval_steps": 0, "save_steps": 2, "rows_per_step": 8, "gradient_accumulation_steps": 1}
    data = dataclasses.replace(base.data, block_rows=1)
    teacher = dataclasses.replace(base, name="teacher", model=LARGE, init_from="random", data=data, **short)
    student = dataclasses.replace(teacher, name="pretrain", model=None)
    settings = {"loss": METHODS["decoupled_topk_kd"](top_k=8), "teacher": "teacher", **changes}
    distill = Distill(data=data, optimizer=base.optimizer, **short, **settings)
    return dataclasses.replace(whole, stages=(teacher, student, distill))


def with_distill(run, **changes):
    return dataclasses.replace(run, stages=(*run.stages[:-1], dataclasses.replace(run.stages[-1], **changes)))


def metrics_of(run, stage="distill"):
    home = Path(run.output_dir) / run.name
    return [r for r in read_metrics(home / "metrics.jsonl") if r["stage"] == stage]


def test_a_teacher_of_its_own_shape_is_recorded_and_taught_from(folder, capsys):
    run = recipe(folder)
    teacher, _, distill = (
        dataclasses.replace(s, max_steps=2, save_steps=0, data=dataclasses.replace(s.data, eval=())) for s in run.stages
    )
    stages = (teacher, dataclasses.replace(distill, init_from="random"))
    run = dataclasses.replace(run, name="short", stages=stages, export=False, prompts=())
    assert execute(run) == 0
    out = capsys.readouterr().out
    assert "36 bytes each" in out  # 8 ids
    assert "max |stored - recomputed| top-8 mass" in out
    home = folder / "runs" / "short" / "stages"
    stored = json.loads((home.parent / "summary.json").read_text())["teacher_records"]["distill"]
    assert stored.keys() == {"train"}
    figures = stored["train"]
    assert figures["records"] == next((home / "distill" / "teacher").iterdir()).name
    assert figures["parts"] == figures["parts_timed"] == 1
    assert f"{figures['tokens']:,} tokens, 36 bytes each" in out
    assert figures["bytes"] == 36 * figures["tokens"] > 0
    assert figures["file_bytes"] >= figures["bytes"]
    assert "Teacher records" in (home.parent / "report.html").read_text()
    assert load_model(home / "teacher").config == LARGE
    assert load_model(home / "distill").config == recipes.MODEL
    trained = [r for r in metrics_of(run) if "kd_loss" in r]
    assert len(trained) == 2
    for record in trained:
        assert 0 < record["teacher_mass"] < 1
        assert 0 < record["student_mass"] < 1
        assert record["loss"] == pytest.approx(record["ce_loss"] + record["kd_loss"], rel=1e-5)


def test_parts_of_earlier_starts_are_added_and_records_of_another_teacher_are_not(tmp_path):
    results = Results(None, SimpleNamespace(path=tmp_path, primary=True), None, None)
    part = {"tokens": 10, "bytes": 360, "bytes_per_token": 36, "file_bytes": 400, "seconds": 2.0, "parts": 2}
    part["tokens_per_second"] = 5.0
    results.taught("distill", "train", "a", part)
    again = Results(None, SimpleNamespace(path=tmp_path, primary=True), None, None)  # as a later start has
    again.taught("distill", "eval", "b", part)
    again.taught("distill", "train", "a", part | {"tokens": 20, "bytes": 720, "tokens_per_second": 10.0})
    stored = json.loads((tmp_path / "summary.json").read_text())["teacher_records"]["distill"]
    assert stored["eval"] == part | {"records": "b", "parts_timed": 1}
    whole = {"tokens": 30, "bytes": 1080, "file_bytes": 800, "seconds": 4.0, "tokens_per_second": 7.5}
    assert stored["train"] == part | whole | {"records": "a", "parts_timed": 2}
    again.taught("distill", "train", "c", part)
    stored = json.loads((tmp_path / "summary.json").read_text())["teacher_records"]["distill"]
    assert stored["train"] == part | {"records": "c", "parts_timed": 1}


@pytest.fixture(scope="module")
def whole(folder):
    """All three stages, with held-out texts, samples and export; and the same records through the command."""
    assert execute(recipe(folder)) == 0
    home = folder / "runs" / "tiny"
    same = ["--max-length", "64", "--row-length", "96", "--top-k", "8", "--tokenizer", str(home / "tokenizer")]
    for part in ("train", "eval"):
        file, out = folder / f"text_{part}.jsonl", folder / f"records_{part}"
        assert main(["data", "teach", str(home / "stages" / "teacher"), str(file), str(out), *same]) == 0
    return home


@pytest.mark.slow
def test_every_stage_is_exported_probed_and_sampled_with_its_own_model(folder, whole):
    recorded = list((whole / "stages" / "distill" / "teacher").iterdir())
    assert {read_meta(p).key for p in recorded} == {
        read_meta(folder / f"records_{part}").key for part in ("train", "eval")
    }
    assert any("eval_kd_loss" in r for r in metrics_of(recipe(folder)))
    verification = json.loads((whole / "export" / "verification.json").read_text())
    assert verification["max_logprob_error"] < 1e-4
    assert json.loads((whole / "samples.json").read_text()).keys() == {"teacher", "pretrain", "distill"}


def records_run(folder, **changes):
    """Distillation alone, from records or from a teacher in a folder."""
    home = folder / "runs" / "tiny"
    run = recipe(folder)
    distill = dataclasses.replace(run.stages[-1], init_from=str(home / "stages" / "pretrain"), **changes)
    tokenizer = dataclasses.replace(run.tokenizer, path=str(home / "tokenizer"))
    return dataclasses.replace(run, stages=(distill,), tokenizer=tokenizer, export=False, prompts=())


@pytest.mark.slow
def test_records_of_the_command_and_the_network_give_the_stage_s_own_numbers(folder, whole):
    records = {"records": str(folder / "records_train"), "eval_records": str(folder / "records_eval"), "teacher": None}
    given = dataclasses.replace(records_run(folder, **records), name="given")
    teacher = str(folder / "runs" / "tiny" / "stages" / "teacher")
    online = dataclasses.replace(records_run(folder, teacher=teacher, precompute_teacher=False), name="online")
    for run in (given, online):
        assert execute(run) == 0
    expected = metrics_of(recipe(folder))
    compared = set()
    for run, tolerance in ((given, 1e-5), (online, 2e-3)):
        for got, wanted in zip(metrics_of(run), expected, strict=True):
            names = [n for n in ("loss", "kd_loss", "ce_loss", "eval_loss", "eval_kd_loss") if n in wanted]
            compared.update(names)
            for name in names:
                assert got[name] == pytest.approx(wanted[name], rel=tolerance), (run.name, name)
    assert compared == {"loss", "kd_loss", "ce_loss", "eval_loss", "eval_kd_loss"}


@pytest.mark.slow
def test_killed_while_recording_and_while_training_it_ends_the_same(folder):
    run = recipe(folder)
    (folder / "distill.json").write_text(json.dumps(to_jsonable(dataclasses.replace(run, export=False, prompts=()))))

    def start(name):
        return process.start(folder / "distill.json", "--run", name)

    def logged(name):
        file = folder / "runs" / name / "metrics.jsonl"
        return read_metrics(file) if file.exists() else []

    code, out = process.finish(start("whole"))
    assert code == 0, out
    stage = folder / "runs" / "killed" / "stages" / "distill"
    for seen in (lambda: stage.is_dir(), lambda: any(r.get("stage") == "distill" for r in logged("killed"))):
        running = start("killed")
        while running.poll() is None and not seen():
            time.sleep(0.01)
        process.kill(running)
    code, out = process.finish(start("killed"))
    assert code == 0, out
    assert without_timing(logged("killed")) == without_timing(logged("whole"))
    a, b = (load_model(folder / "runs" / name / "stages" / "distill").params for name in ("killed", "whole"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def without_timing(records):
    return [{k: v for k, v in record.items() if k not in TIMING} for record in records]


def test_flags_json_and_needs(folder):
    run = recipe(folder)
    words = ["--stage.loss", "truncated_topk_kl", "--stage.loss.tau", "3", "--teacher.model.hidden-size", "32"]
    resolved = resolve_run(run, [*words, "--stage.loss.ce-weight", "0.5"]).run
    assert resolved.stages[-1].loss == METHODS["truncated_topk_kl"](tau=3.0, ce_weight=0.5)
    assert resolved.stages[0].model.hidden_size == 32
    assert from_jsonable(json.loads(json.dumps(to_jsonable(run)))) == run
    assert method_of(run.stages[-1]).NEEDS.roles == ("completion",)
    assert list(find_problems(run)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "distill.teacher: there is none; give --distill.teacher STAGE or FOLDER"),
        ({"teacher": "techer"}, "'techer' is neither an earlier stage (teacher, pretrain) nor a folder. Did"),
        ({"teacher": "distill"}, "distill.teacher: the stage 'distill' does not come before 'distill'."),
        ({"loss": None}, "distill.loss: no method chosen"),
        ({"loss": METHODS["dpo"]()}, "dpo (family 'pairs') belongs to a Preference stage; this one is Distill."),
        ({"loss": METHODS["decoupled_topk_kd"](top_k=500)}, "distill.loss.top_k: 500 exceeds the model's vocab"),
        ({"loss": METHODS["forward_kl"]()}, "forward_kl: precompute_teacher cannot be used, because the loss"),
        ({"loss": METHODS["bucket_topk_kl"](kd_weight=-1.0)}, "kd_weight is -1.0 but must be a number at least 0."),
        ({"records": "gone"}, "distill.records: gone holds no teacher records; write them with `jaxpo data teach`."),
        ({"precompute_teacher": False, "records": "gone"}, "distill.records: is not read with"),
        ({"precompute_teacher": False, "teacher": None}, "False runs the teacher in every step"),
        ({"init_from": "teacher"}, "distill.init_from: stage 'teacher' has another architecture (hidden_size"),
        ({"model": "no_such"}, "distill.model: "),
        ({"model": LARGE}, "distill.init_from: stage 'pretrain' has another architecture (hidden_size"),
        ({"metric_for_best_model": "eval_kdloss"}, "Did you mean eval_kd_loss"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_any_work(folder, changes, message):
    with pytest.raises(ConfigError) as error:
        check(with_distill(recipe(folder), **changes))
    assert message in str(error.value)


def test_a_stage_of_another_shape_is_refused_unless_it_starts_afresh(folder):
    run = recipe(folder)
    teacher, student, _ = run.stages
    refused = dataclasses.replace(run, stages=(teacher, dataclasses.replace(student, init_from="previous")))
    with pytest.raises(ConfigError, match=r"pretrain\.init_from: stage 'teacher' has another architecture.*random"):
        check(refused)
    first = dataclasses.replace(run, stages=(dataclasses.replace(teacher, init_from="previous"),))
    with pytest.raises(ConfigError, match="the run's initial model has another architecture"):
        check(first)
    merged = dataclasses.replace(run, stages=(teacher, student, Merge(models=("teacher", "pretrain"))))
    with pytest.raises(ConfigError, match="'teacher' and 'pretrain' have different architectures"):
        check(merged)
    long = dataclasses.replace(teacher, model=dataclasses.replace(LARGE, max_position_embeddings=32))
    with pytest.raises(ConfigError, match=r"teacher\.data\.max_length: 64 exceeds the context of --teacher\.model, 32"):
        check(dataclasses.replace(run, stages=(long,)))
    narrow = dataclasses.replace(teacher, model=dataclasses.replace(LARGE, vocab_size=300))
    with pytest.raises(ConfigError, match="its vocabulary of 300 has no room for tokenizer"):
        check(dataclasses.replace(run, stages=(narrow,)))
    other = dataclasses.replace(teacher, model=dataclasses.replace(LARGE, vocab_size=512))
    with pytest.raises(ConfigError, match=r"distill\.teacher: the model of stage 'teacher' has another vocabulary"):
        check(dataclasses.replace(run, stages=(other, *run.stages[1:])))
    assert isinstance(teacher, Pretrain)
