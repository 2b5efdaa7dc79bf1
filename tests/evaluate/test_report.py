"""The HTML report: what it shows, that it stands alone, and what it says when parts are missing."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from report_runs import NASTY, make_run

from jaxpo.errors import RunError
from jaxpo.evaluate.report import charts, comparison_text, write_comparison, write_report
from jaxpo.evaluate.report.page import duration, number
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.sections import subtitle

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Structure(HTMLParser):
    """Collects open tags, ids, references and headings; every tag must be closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.text.append(data)


def parse(path: Path) -> tuple[str, Structure, str]:
    """The file's source, its structure and its visible text."""
    source = path.read_text(encoding="utf-8")
    structure = Structure()
    structure.feed(source)
    structure.close()
    assert structure.stack == []
    return source, structure, " ".join(" ".join(structure.text).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return make_run(root / "first"), make_run(root / "second", seed=3, scale=1.1)


@pytest.fixture(scope="module")
def report(runs: tuple[Path, Path]) -> tuple[str, Structure, str]:
    path = write_report(runs[0])
    assert path == runs[0] / "report.html"
    return parse(path)


def test_a_run_that_began_from_a_model_says_which() -> None:
    config = {"model": "nano", "model_from": "/home/me/runs/my-sft/export", "seed": 1, "stages": [{"name": "reward"}]}
    assert subtitle(RunData(Path("run"), "run", config)) == "from my-sft/export · reward · seed 1"


def test_every_section_is_there(report: tuple[str, Structure, str]) -> None:
    text = report[2]
    for expected in (
        *(
            "first finished",
            "nano · pretrain → sft → preference → merge · seed 0",
            "Time in stages 6 min 34 s 4 stages",
            "Export verified 3.1e-06",
        ),
        *("Tokens trained 5,488,640", "Results Value after each stage", "1.980 1.950 … 2.010 · n = 412"),
        *("held-out loss, from 6.449", "900 steps · 4 min 21 s", "Reward margin", "Reward accuracy", "Throughput"),
        *("tokens per second", "Learning rate", "Gradient norm", "Response log-probability", "held-out"),
        *(
            "Samples",
            "the the path of the file",
            "(ended at once)",
            "truncated response dropped: no supervised token dropped: chosen == rejected",
            "sft 9,120 9,017 311",
        ),
        *(
            "resolved values",
            "sft.optimizer.weight_decay",
            "preference.optimizer.learning_rate 0.0003",
            "platform.jax 0.10.2",
            "corpus.hash 9f3ac1d2",
        ),
    ):
        assert expected in text, expected


def test_one_chart_per_metric_with_values(report: tuple[str, Structure, str]) -> None:
    assert report[1].tags.count("svg") == 7 + 7 + 9
    assert report[1].tags.count("figure") == 23


def test_it_stands_alone(report: tuple[str, Structure, str]) -> None:
    source, structure, _ = report
    assert structure.references
    assert all(r.startswith("#") for r in structure.references)
    assert {r[1:] for r in structure.references} <= set(structure.ids)
    assert len(structure.ids) == len(set(structure.ids))
    assert not {"script", "link", "img", "iframe"} & set(structure.tags)
    assert not re.search(r"url\((?!#)|@import", source)
    assert len(source) < 1_000_000


def test_colours_follow_the_page(report: tuple[str, Structure, str]) -> None:
    source = report[0]
    assert "prefers-color-scheme: dark" in source
    assert not any(placeholder in source for placeholder in charts.PLACEHOLDERS)
    defined = set(re.findall(r"(--[\w-]+):", source))
    assert set(re.findall(r"var\((--[\w-]+)\)", source)) <= defined


def test_text_is_escaped(report: tuple[str, Structure, str]) -> None:
    source, structure, text = report
    assert "script" not in structure.tags
    assert "<script>" not in source
    assert text.count("".join(NASTY)) >= 2


def test_a_run_that_has_not_finished(tmp_path: Path) -> None:
    _, structure, text = parse(write_report(make_run(tmp_path / "partial", stages=2, finished=False)))
    assert "partial unfinished The last logged step is 240 of stage sft. Run the same command again to resume." in text
    assert "Not begun: preference." in text
    assert "Results" not in text
    assert structure.tags.count("svg") == 14


def test_a_run_without_steps(tmp_path: Path) -> None:
    _, _, text = parse(write_report(make_run(tmp_path / "empty", stages=0, finished=False)))
    assert "unfinished No step has been logged yet." in text
    assert "metrics.jsonl holds no steps yet." in text


def test_null_metrics_and_a_line_being_written_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stages=1, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "pretrain", "step": 901, "loss": null}\n{"stage": "pretrain", "st')
    _, _, text = parse(write_report(run))
    assert "last logged step is 901 of stage pretrain" in text


def test_a_single_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stages=0, finished=False)
    (run / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "loss": 2.5, "grad_norm": 0.0}\n')
    _, structure, text = parse(write_report(run))
    assert structure.tags.count("svg") == 2
    assert "sft 2.500 loss" in text


def refused(path: Path) -> str:
    with pytest.raises(RunError) as caught:
        write_report(path)
    return str(caught.value)


def test_what_is_no_run_or_broken(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"{tmp_path / 'gone'}: there is no such run directory."
    assert refused(tmp_path) == (
        f"{tmp_path}: holds neither config.json nor metrics.jsonl, so it is not a run directory."
    )
    run = make_run(tmp_path / "run", stages=1, finished=False)
    (run / "metrics.jsonl").write_text('{"stage": "sft", "step": 1}\n{"step": 2}\n{"stage": "sft", "step": 3}\n')
    assert refused(run).startswith(f"{run / 'metrics.jsonl'}, line 2: is not a metrics record with a stage and a step")
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").write_text("{")
    assert refused(run).startswith(f"{run / 'summary.json'}: is not valid JSON")
    (run / "summary.json").write_text("[]")
    assert refused(run) == f"{run / 'summary.json'}: should hold a JSON object, holds a list."


def test_comparison(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = write_comparison(runs, tmp_path / "out" / "cmp.html")
    _, structure, text = parse(out)
    assert all(r.startswith("#") for r in structure.references)
    assert len(structure.ids) == len(set(structure.ids))
    for expected in (
        *("first vs second", "status finished finished", "preference: held-out reward accuracy 0.8338 0.8338"),
        *("Loss, held-out", "sft: bits per byte 2.010", "seed 0 3"),
    ):
        assert expected in text, expected


def test_runs_of_one_name_are_told_apart(runs: tuple[Path, Path], tmp_path: Path) -> None:
    twin = make_run(tmp_path / "first", stages=1, finished=False)
    _, _, text = parse(write_comparison([runs[0], twin], tmp_path / "cmp.html"))
    assert f"{runs[0]} vs {twin}" in text
    assert "status finished unfinished" in text


def test_thinning_keeps_ends_and_mean() -> None:
    steps = list(range(10_000))
    x, y = charts.thin(steps, [float(s) for s in steps])
    assert len(x) <= charts.MAX_POINTS
    assert (x[0], x[-1], y[0], y[-1]) == (0, 9999, 0, 9999)
    assert x == pytest.approx(y)
    assert charts.running_mean([1.0] * 50, 3) == pytest.approx([1.0] * 50)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2e-3, "2e−3"), (1.5e-3, "1.5e−3"), (12_000, "12k"), (-80, "−80"), (0.45, "0.45")]
)
def test_ticks(value: float, text: str) -> None:
    assert charts.tick(value) == text


def test_numbers_and_durations() -> None:
    shown = [number(v) for v in (2.0, 0.86, 412, 5_488_640, 14_018.4, 0.0, 3e-4, float("nan"))]
    assert shown == ["2.000", "0.8600", "412", "5,488,640", "14,018", "0", "0.0003", "n/a"]
    assert [duration(s) for s in (3.21, 58, 389, 7265)] == ["3.2 s", "58 s", "6 min 29 s", "2 h 01 min"]


def test_probes_may_be_plain_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text(json.dumps({"probes": {"sft": {"accuracy": 0.5, "name": "<i>"}}}))
    _, structure, text = parse(write_report(run))
    assert "accuracy 0.5000 name <i>" in text
    assert "i" not in structure.tags


def note_times(run: Path, *, alerts: int = 2) -> None:
    """Two starts of a run, the second in two processes of which one is late; and alerts."""
    process = {"host": "node", "steps": 100, "seconds": {"step": 50.0, "data": 1.0}, "host_memory_peak_gib": 2.0}
    late = {**process, "host": "late", "seconds": {"step": 30.0, "data": 21.0}}
    first = {"": {"seconds": {"startup": 40.0}, "reached": 0, "processes": []}}
    first["pretrain"] = {"seconds": {"step": 200.0, "compile": 20.0, "data": 10.0}, "reached": 700, "processes": []}
    second = {"": {"seconds": {"startup": 30.0}, "reached": 0, "processes": []}}
    second["pretrain"] = {"seconds": {"step": 60.0, "again": 40.0}, "reached": 900, "processes": [process, late]}
    common = {"began": 1.8e9, "seen": 1.8e9, "boot": "b", "uptime": 1.0, "process_count": 2}
    starts = [
        {**common, "down": 0.0, "ended": "running", "stages": first},
        {**common, "down": 120.0, "ended": "finished", "stages": second},
    ]
    (run / "starts.json").write_text(json.dumps({"starts": starts}))
    told = {"time": "2026-01-02", "run": "r", "directory": "/r", "stage": "sft", "rule": "LossSpike", "message": NASTY}
    (run / "alerts.jsonl").write_text("".join(json.dumps(told | {"step": i}) + "\n" for i in range(alerts)))


def test_where_the_time_went_the_starts_the_slow_process_and_the_alerts(tmp_path: Path) -> None:
    """260 s of steps that count in 520 s; the process that is 0.2 s per step behind comes first."""
    run = make_run(tmp_path / "run", stages=1)
    note_times(run, alerts=120)
    source, structure, text = parse(write_report(run))
    for expected in (
        "Goodput 50.0% wall time in steps that count",
        "wall time of 2 starts",
        "run 50.0% 8 min 40 s 4 min 20 s 40 s 20 s 10 s 1 min 10 s 2 min 00 s",
        "pretrain 78.8% 5 min 30 s 4 min 20 s 40 s 20 s 10 s – –",
        "1 2027-01-15 08:00:00 0.0 s 4 min 30 s pretrain 700 killed, or still runs",
        "2 2027-01-15 08:00:00 2 min 00 s 2 min 10 s pretrain 900 finished",
        "The newest 100 of 120; all are in alerts.jsonl.",
        "1 (late) 0.2000 0.3000 0.2100 – 2.000 0 (node) -0.2000 0.5000 0.01000 – 2.000",
    ):
        assert expected in text, expected
    widths = [float(w) for w in re.findall(r'style="width:([\d.]+)%"', source)]
    assert sum(widths) == pytest.approx(200, abs=0.02)
    assert "script" not in structure.tags
    (run / "alerts.jsonl").write_text("{}\n7\n")
    assert refused(run).startswith(f"{run / 'alerts.jsonl'}, line 2: is not a JSON object")
    (run / "starts.json").write_text('{"starts": [{}]}')
    assert refused(run).startswith(f"{run / 'starts.json'}: holds no starts of a run: KeyError")


def test_comparison_as_text_of_runs_of_other_lengths_and_stages(tmp_path: Path) -> None:
    """The tables of the page, one line per row; a stage that one run does not have is one line of the configuration."""
    long, short = make_run(tmp_path / "long"), make_run(tmp_path / "short", stages=1, finished=False)
    note_times(long)
    config = json.loads((short / "config.json").read_text())
    config["stages"] = config["stages"][:1]
    (short / "config.json").write_text(json.dumps(config))
    lines = [" ".join(line.split()) for line in comparison_text([long, short]).splitlines()]
    for expected in (
        *("Overview long short", "status finished unfinished", "goodput 50.0% –", "starts 2 –", "alerts 2 0"),
        *("pretrain: steps 900 900", "sft: steps 240 –", "sft: seconds per step 0.2900 –"),
        *("sft: examples 9,017 –", "sft: bits per byte 2.010 1.980 … 2.040 · n = 412 –", "sft SFT –"),
    ):
        assert expected in lines, expected
    assert not [line for line in lines if line.startswith("sft.")]
    _, _, text = parse(write_comparison([long, short], tmp_path / "cmp.html"))
    cells = "".join(c for c in text if not c.isspace())
    for line in lines[1:]:
        if line and line.split()[0] not in ("Speed", "Data", "Results", "Configuration"):
            assert "".join(line.split()) in cells, line
