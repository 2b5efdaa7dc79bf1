"""The recipe `lfm2_recipe` in both of its forms: sound before anything runs, and its files as its docstring says."""

import json
from pathlib import Path

import pytest

from jaxpo.config import Distill, Preference, Work, serialise
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.errors import ConfigError, DataError
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.overrides import load_run_with

CONFIG = "lfm2_recipe"
ROWS = {
    "pretrain": {"text": "Once upon a time."},
    "sft": {"prompt": "Who?", "completion": "Me."},
    "items": {"prompt": "2 + 3?", "completion": "2 + 3 = 5\n#### 5"},
    "pref": {"prompt": "Who?", "chosen": "Me.", "rejected": "Him."},
}


@pytest.fixture
def pod(tmp_path):
    """The flags that the docstring asks for, with one row per file."""
    for name, row in ROWS.items():
        for file in (name, f"select_{name}", f"report_{name}"):
            (tmp_path / f"{file}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("teacher", "tokenizer", "records"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    given = {"data": tmp_path, "teacher": tmp_path / "teacher", "tokenizer": tmp_path / "tokenizer"}
    return ["--preset", "lfm2_1_2b", *(word for name, path in given.items() for word in (f"--{name}", str(path)))]


def built(*words):
    run, rest = load_run_with(CONFIG, words)
    assert rest == []
    return run


def stage(run, kind):
    (found,) = [s for s in run.stages if isinstance(s, kind)]
    return found


def test_the_laptop_form_is_sound_and_survives_json():
    run = built()
    check(run)
    assert serialise.from_jsonable(json.loads(serialise.dump(run))) == run
    assert stage(run, Distill).precompute_teacher


def test_the_pod_form_is_sound_and_survives_json(pod):
    run = built(*pod)
    check(run)
    assert serialise.from_jsonable(json.loads(serialise.dump(run))) == run
    assert not stage(run, Distill).precompute_teacher
    assert stage(run, OnPolicyPairs).max_new_tokens > 500
    assert run.stages[-1].search.max_new_tokens == stage(run, OnPolicyPairs).max_new_tokens


def test_the_pod_form_reads_records_and_lets_an_endpoint_judge_open_answers(pod, tmp_path):
    run = built(
        *pod, "--endpoint", "http://localhost:1/v1", "--judge", "grader", "--records", str(tmp_path / "records")
    )
    distil = stage(run, Distill)
    assert distil.precompute_teacher
    assert distil.records == str(tmp_path / "records")
    on_policy, judged = (s for s in run.stages if isinstance(s, OnPolicyPairs))
    assert judged.prompts == (str(tmp_path / "pref.jsonl"),)
    assert judged.judge.endpoint.model == "grader"
    assert stage(run, Preference).data.train == ("stage:on_policy/pairs.jsonl", "stage:judged/pairs.jsonl")
    assert on_policy.problems() == judged.problems() == []


def test_every_released_size_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"--preset lfm2_1_2b needs --data PATH, --teacher PATH, --tokenizer PATH\."):
        built("--preset", "lfm2_1_2b")


def test_work_stages_accept_the_documented_rows_and_name_a_bad_one(pod, tmp_path):
    work = [s for s in built(*pod).stages if isinstance(s, Work)]
    assert [s.name for s in work] == ["difficulty", "on_policy"]
    items = tmp_path / "items.jsonl"
    for s in work:
        s.check_inputs([Path(name) for name in s.inputs()])
    rows = items.read_text()
    items.write_text(rows + json.dumps({"prompt": "2 + 2?", "completion": "Four."}) + "\n")
    for s in work:
        with pytest.raises(DataError, match=r"items\.jsonl, row 2.*no number"):
            s.check_inputs([items])
    named = json.dumps({"id": "a", **ROWS["items"]}) + "\n"
    items.write_text(named + rows + named)
    with pytest.raises(DataError, match=r"items\.jsonl, row 3, field 'id': another item is called 'a' too .*row 1"):
        work[0].check_inputs([items])
