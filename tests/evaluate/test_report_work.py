"""A report shows what the stages that train nothing reported, and does not wait for steps of theirs."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report_runs import make_run

from jaxpo.evaluate.report import write_report
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.sections import environment, stage_sections, teacher_records, work

STAGES = [
    {"__type__": "jaxpo.config:SFT", "name": "sft", "init_from": "previous"},
    {"__type__": "jaxpo.construct.on_policy.stage:OnPolicyPairs", "name": "on_policy", "model": "previous"},
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


def test_the_size_and_speed_of_teacher_records_are_shown():
    figures = {"tokens": 12345, "bytes": 1629540, "bytes_per_token": 132, "file_bytes": 1700000, "seconds": 2.5}
    figures |= {"tokens_per_second": 4938.0, "parts": 3, "records": "abc", "parts_timed": 3}
    summary = {"teacher_records": {"distill": {"train": figures, "eval": figures | {"tokens": 77}}}}
    run = RunData(Path("run"), "run", {}, {}, summary)
    html = teacher_records(run)
    for cell in ("distill (train files)", "distill (eval files)", "12,345", "1,629,540", "132", "4,938", "77"):
        assert f">{cell}</td>" in html
    assert '<th class="n">tokens per second</th>' in html
    assert not environment(run)
    assert teacher_records(RunData(Path("run"), "run")) == ""


def test_the_costliest_operations_of_a_profile(tmp_path):
    """In their order, with share and time of one execution; what JAX does not name by the program's own name."""
    operation = {"module": "jit_step", "opcode": "fusion", "calls": 4, "seconds": 0.5, "share": 0.25}
    operations = [
        operation | {"operation": "fusion.1", "name": "jit(step)/<dot>", "place": "/home/me/jaxpo/ops/head.py:77"},
        operation | {"operation": "copy.2", "name": "", "place": "", "opcode": ""},
    ]
    run = make_run(tmp_path / "run", stages=1, finished=False)
    folder = run / "stages" / "pretrain" / "profile" / "process0"
    folder.mkdir(parents=True)
    (folder / "operations.json").write_text(json.dumps({"steps": [3, 5], "operations": operations}))
    page = write_report(run).read_text()
    section = page[page.index("Costliest operations: pretrain") :]
    assert "Steps 3 to 5;" in section
    assert "jit(step)/&lt;dot&gt; (fusion)" in section
    assert "jaxpo/ops/head.py:77" in section
    assert "copy.2 (copy.2)" in section
    assert "25.0%" in section
    assert "125.0" in section
