"""The table of accuracy against length, from runs that are numbers."""

import json

import pytest
from comparison.lengths import main


def run(folder, name, stages):
    probes = {
        stage: {
            "exact_match": {"value": right, "low": right - 0.1, "high": right + 0.1, "n": 100},
            **({} if tokens is None else {"answer_tokens": {"value": tokens, "n": 100}}),
        }
        for stage, (right, tokens) in stages.items()
    }
    (folder / name).mkdir()
    (folder / name / "summary.json").write_text(json.dumps({"probes": probes}))
    return str(folder / name)


def test_seeds_stand_side_by_side_and_one_has_its_interval(tmp_path, capsys):
    start = {"initial": (0.0, 40.0)}
    one = run(tmp_path, "one", start | {"sft": (0.5, 20.0), "hapo": (0.4, 10.0)})
    two = run(tmp_path, "two", start | {"sft": (0.7, 30.0), "hapo": (0.6, 10.0)})
    assert main([one]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| sft | 0.500 [0.400, 0.600] | 20.0 | 1.00 |",
        "| hapo | 0.400 [0.300, 0.500] | 10.0 | 2.00 |",
    ]
    assert main([one, two, "--base", "hapo"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| sft | 0.600 (0.500, 0.700) | 25.0 (20.0, 30.0) | 0.42 |",
        "| hapo | 0.500 (0.400, 0.600) | 10.0 (10.0, 10.0) | 1.00 |",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one", "--base", "grpo"], "there is no stage 'grpo'; there are sft."),
        (["one", "three"], "the runs have different stages: sft, other."),
        (["two"], "stage 'sft' has no 'answer_tokens'; give the run the probe EndsByItself."),
        (["none"], "there is no summary.json; the run has not ended."),
    ],
)
def test_what_is_not_there_is_named(words, message, tmp_path, capsys):
    run(tmp_path, "one", {"sft": (0.5, 20.0)})
    run(tmp_path, "two", {"sft": (0.5, None)})
    run(tmp_path, "three", {"other": (0.5, 20.0)})
    assert main([str(tmp_path / word) if word in ("one", "two", "three", "none") else word for word in words]) == 1
    assert message in capsys.readouterr().err
