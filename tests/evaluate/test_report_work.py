"""A report shows what the stages that train nothing reported, and does not wait for steps of theirs."""

from pathlib import Path

from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.sections import stage_sections, work

STAGES = [
    {"__type__": "jaxpo.config:SFT", "name": "sft", "init_from": "previous"},
    {"__type__": "jaxpo.construct.on_policy_stage:OnPolicyPairs", "name": "on_policy", "model": "previous"},
    {"__type__": "jaxpo.config:Preference", "name": "preference", "init_from": "previous"},
    {"__type__": "jaxpo.config:Merge", "name": "merge", "models": []},
]


def run_data():
    report = {"rows": 12, "judge": {"retried": 3}, "note": "a <b>"}
    metrics = {"sft": [{"step": 1, "loss": 1.0, "seconds": 1.0}]}
    return RunData(Path("run"), "run", {"stages": STAGES}, metrics, {"work": {"on_policy": report}})


def test_every_count_and_figure_has_a_row():
    [html] = work(run_data())
    assert "<h2>on_policy</h2>" in html
    for cell in ("rows", "12", "judge.retried", "3", "a &lt;b&gt;"):
        assert f">{cell}</td>" in html


def test_only_trained_stages_are_awaited():
    assert "Not begun: preference." in "".join(stage_sections(run_data()))


def test_a_run_without_work_has_no_section():
    assert not list(work(RunData(Path("run"), "run")))
