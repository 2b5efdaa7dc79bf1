"""Prometheus' text format by a small reader of its own grammar, from the file and from the port."""

import re
import socket
import urllib.error
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.config import Prometheus
from jaxpo.errors import RunError
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.prometheus import CONTENT_TYPE, exposition

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"'
UNESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\S+)")


def parsed(text):
    """{(name, labels): value}; every family has one TYPE line, before its samples, which stand together."""
    found, family = {}, None
    seen = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if match := re.fullmatch(rf"# TYPE ({NAME}) gauge", line):
            family = match[1]
            assert family not in seen
            seen.add(family)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] == family
        labels = {k: re.sub(r"\\.", lambda m: UNESCAPED[m[0]], v) for k, v in re.findall(LABEL, match[2])}
        key = (family, tuple(sorted(labels.items())))
        assert key not in found
        found[key] = float(match[len(match.groups())])
    return found


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), max_size=6)


@settings(max_examples=15)
@given(words, st.dictionaries(words, st.dictionaries(words, st.floats(allow_nan=False), max_size=4), max_size=3))
def test_every_value_is_found_again_under_its_run_and_stage(run, stages):
    found = parsed(exposition(run, stages, running=True))
    assert found.pop(("jaxpo_running", (("run", run),))) == 1
    assert sorted(found.values()) == sorted(x for values in stages.values() for x in values.values())
    assert {dict(labels)["stage"] for _, labels in found} == {s for s, values in stages.items() if values}


def test_names_that_become_the_same_are_told_apart():
    found = parsed(exposition("r", {"s": {"a/b": 1.0, "a_b": 2.0, "c": 3.0}}, running=False))
    common = (("run", "r"), ("stage", "s"))
    assert found == {
        ("jaxpo_running", (("run", "r"),)): 0,
        ("jaxpo_a_b", (("name", "a/b"), *common)): 1,
        ("jaxpo_a_b", (("name", "a_b"), *common)): 2,
        ("jaxpo_c", common): 3,
    }


def test_the_file_holds_the_newest_line_and_what_became_of_the_run(tmp_path):
    place = Prometheus(folder=str(tmp_path))
    with MetricsLog(tmp_path / "m.jsonl", run_name="r", prometheus=place) as log:
        for step in (1, 2):
            log.write({"stage": "sft", "step": step, "loss": 1.0 / step, "rewards/margins": 0.5, "text": "x"})
        found = parsed((tmp_path / "jaxpo_r.prom").read_text())
    common = (("run", "r"), ("stage", "sft"))
    assert found.pop(("jaxpo_last_line_timestamp_seconds", common)) > 1.7e9
    assert found == {
        ("jaxpo_running", (("run", "r"),)): 1,
        ("jaxpo_step", common): 2,
        ("jaxpo_loss", common): 0.5,
        ("jaxpo_rewards_margins", common): 0.5,
    }
    after = parsed((tmp_path / "jaxpo_r.prom").read_text())
    assert after["jaxpo_running", (("run", "r"),)] == 0
    assert after["jaxpo_loss", common] == 0.5
    assert [p.name for p in tmp_path.glob("*prom*")] == ["jaxpo_r.prom"]
    assert (tmp_path / "jaxpo_r.prom").stat().st_mode & 0o044 == 0o044


def test_the_other_processes_offer_nothing(tmp_path):
    place = Prometheus(folder=str(tmp_path))
    with MetricsLog(tmp_path / "m.jsonl", prometheus=place, primary=False) as log:
        log.write({"stage": "sft", "step": 1, "loss": 1.0})
    assert not list(tmp_path.iterdir())


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_port_answers_while_the_run_works_and_is_refused_when_taken(tmp_path):
    port = free_port()
    place = Prometheus(port=port)
    with MetricsLog(tmp_path / "m.jsonl", run_name="r", prometheus=place) as log:
        log.write({"stage": "sft", "step": 3, "loss": 2.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert parsed(answer.read().decode())["jaxpo_loss", (("run", "r"), ("stage", "sft"))] == 2.0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/passwd")
        with pytest.raises(RunError, match=rf"prometheus.port: 127.0.0.1:{port} cannot be bound .* another port"):
            MetricsLog(tmp_path / "other.jsonl", prometheus=place)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
