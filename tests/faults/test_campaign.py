"""The short form of scripts/faults, in real processes; and its own judgement, which has to notice what is wrong."""

import dataclasses
import json

import pytest
from campaign import main, table
from campaign.outcome import Outcome, Position, differences, far_from, metrics, steps_lost
from campaign.scene import Fault, Tally

WHOLE = Outcome(({"stage": "sft", "step": 1, "num_tokens": 9, "loss": 2.0},), {"sft/model": {"w": "1"}}, "export")


@pytest.mark.scale
def test_the_short_form(tmp_path, capfd):
    status = main.main(["--folder", str(tmp_path)])
    out = capfd.readouterr().out
    assert status == 0, out
    assert "SIGKILL at a random instant: 2 of 2 survived" in out
    assert "a checkpoint with a flipped bit: 1 of 1 survived" in out


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": ({**WHOLE.metrics[0], "loss": 2.1},)},
        {"metrics": ()},
        {"fingerprints": {"sft/model": {"w": "2"}}},
        {"export": "other"},
    ],
)
def test_another_end_is_noticed(changed):
    assert differences(WHOLE, WHOLE) == []
    assert differences(dataclasses.replace(WHOLE, **changed), WHOLE)


def test_rounding_is_no_difference_between_one_process_and_two():
    near, far = (dataclasses.replace(WHOLE, metrics=({**WHOLE.metrics[0], "loss": 2 + d},)) for d in (1e-5, 1e-1))
    assert far_from(near, WHOLE) == []
    assert far_from(far, WHOLE)
    assert far_from(dataclasses.replace(WHOLE, metrics=()), WHOLE)


def test_steps_taken_again_are_counted_and_a_wrong_beginning_is_named():
    before = Position({"sft": 6, "preference": 2}, {"sft": 6, "preference": 5}, frozenset({"sft"}))
    assert steps_lost(before, "resuming at step 2 of stage preference") == (3, [])
    assert steps_lost(before, "starting stage preference (6 steps)")[1] == [
        "preference went on from step 0, and 2 was committed"
    ]
    assert steps_lost(before, "")[1] == ["preference did not begin again"]
    assert steps_lost(before, "", whole=False) == (0, [])


def test_half_a_line_of_the_metrics_is_not_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "step_time": 0.5}\n{"ste')
    assert metrics(tmp_path) == [{"step": 1}]


def test_a_campaign_that_fails_says_so_and_the_table_keeps_what_was_found(tmp_path, monkeypatch):
    def breaks(scene, trials):
        raise RuntimeError("planned")

    rows = [
        main.played(None, Fault("a fault", "all", breaks), 2),
        main.played(None, Fault("another", "all", breaks, needs=lambda: "no such disk"), 1),
        main.played(None, Fault("a third", "all", lambda scene, trials: Tally(3, 3, 2)), 3),
    ]
    for row in rows:
        table.keep(tmp_path / "kept.json", row)
    assert len(json.loads((tmp_path / "kept.json").read_text())) == 3
    found = table.kept_rows(tmp_path / "kept.json", [row.name for row in rows])
    assert found == rows
    text = table.markdown(found, 7)
    assert "| a fault | all | 2 | 0 | 0 |" in text
    assert "| another | all | not tried: no such disk |" in text
    assert "| a third | all | 3 | 3 | 2 |" in text
    assert "- a fault: RuntimeError: planned" in text
    document = tmp_path / "page.md"
    document.write_text(f"before\n{table.BEGIN}\nof last year\n{table.END}\nafter\n")
    table.write(document, text)
    assert "of last year" not in document.read_text()
    assert document.read_text().endswith("after\n")
