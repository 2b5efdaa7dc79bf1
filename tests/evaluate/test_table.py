"""The table at the end of a run."""

from jaxpo.evaluate.table import probe_table


def test_stages_are_columns_and_what_was_not_measured_is_blank():
    probes = {
        "initial": {"bits": {"value": 8.0, "n": 3, "low": 7.0, "high": 9.0}, "xz": {"value": 2.2071, "n": 3}},
        "sft": {"bits": {"value": 1.96789, "n": 3}, "answers": 12},
    }
    assert probe_table(probes) == [
        "         initial    sft",
        "bits       8.000  1.968",
        "xz         2.207",
        "answers              12",
    ]
    assert probe_table({"initial": {}}) == []
