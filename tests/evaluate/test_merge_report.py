"""What a search leaves: table, plot and section; which model is called better than every merge."""

from pathlib import Path

import pytest

from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.merge_report import better_input, markdown, plot
from jaxpo.evaluate.report.merges import merges
from jaxpo.evaluate.report.read import RunData


def row(label, kind, on, bits, accuracy):
    measured = {
        "bits_per_byte": Measurement(bits, 40, bits - 0.1, bits + 0.1).record(),
        "ranking_accuracy": Measurement(accuracy, 90).record(),
    }
    return {"label": label, "kind": kind, "on": on, "score": 2 * accuracy - bits, "measured": measured}


@pytest.fixture
def document():
    rows = [
        row("<sft>", "input", "select", 2.0, 0.5),
        row("soup 0.5 0.5", "merge", "select", 1.9, 0.6),
        row("ties 0.5 0.5", "merge", "select", 1.8, 0.7),
        row("<sft>", "input", "report", 2.1, 0.5),
        row("soup 0.5 0.5", "merge", "report", 1.95, 0.7),
        row("ties 0.5 0.5", "merge", "report", 1.85, 0.65),
    ]
    return {"best": "ties 0.5 0.5", "metrics": [["bits_per_byte", 1.0], ["ranking_accuracy", 2.0]], "rows": rows}


def test_the_table_puts_the_reported_figures_first(document):
    lines = markdown(document).splitlines()
    assert lines[0] == "# Search for a merge: ties 0.5 0.5"
    assert "Score: -1 bits_per_byte + 2 ranking_accuracy." in lines
    at = lines.index("## On the report files (these figures can be quoted)")
    assert lines[at + 2 : at + 6] == [
        "| model | bits_per_byte | ranking_accuracy | score |",
        "|---|---|---|---|",
        "| soup 0.5 0.5 | 1.9500 [1.8500, 2.0500] | 0.7000 | -0.5500 |",
        "| **ties 0.5 0.5** | 1.8500 [1.7500, 1.9500] | 0.6500 | -0.5500 |",
    ]
    assert "which went in" not in markdown(document)


def test_an_input_that_is_better_is_named(document):
    assert better_input(document) is None
    document["rows"][0] = row("<sft>", "input", "select", 1.0, 0.9)
    assert better_input(document)["label"] == "<sft>"
    assert "**<sft>, which went in, scores better than every merge.**" in markdown(document)


def test_the_plot_is_a_picture(document, tmp_path):
    plot(tmp_path / "search.png", document)
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_section_of_the_report(document):
    (section,) = merges(RunData(path=Path("."), name="run", summary={"merges": {"merge": document}}))
    assert "merge: ties 0.5 0.5" in section
    assert "The best of 2 merges by − 1 bits_per_byte + 2 ranking_accuracy." in section
    assert "<strong>ties 0.5 0.5</strong>" in section
    assert "&lt;sft&gt; (went in)" in section
    assert section.index("can be quoted") < section.index("partly so by luck")
    assert list(merges(RunData(path=Path("."), name="run"))) == []
