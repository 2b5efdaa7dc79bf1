"""Console: one readable line per record, no control characters where there is no terminal, a bar where there is."""

import contextlib
import io
import os
import pty

import pytest

from jaxpo.train.console import Console, format_record

RECORD = {
    "stage": "dpo",
    "step": 20,
    "epoch": 0.5,
    "num_tokens": 12345,
    "loss": 0.6931,
    "grad_norm": 1.25,
    "learning_rate": 5e-7,
    "rewards/accuracies": 0.75,
    "skipped": 0.0,
    "tokens_per_second": 12345.6,
}


def run(console):
    with console:
        console.start_stage("dpo", 10, 200, "; note")
        console.compiled(3.2)
        console.record(RECORD)
        console.advance(20)
        console.warn("careful")
        console.record({"stage": "dpo", "step": 20, "eval_loss": 0.5, "eval_rewards/accuracies": 0.8})
        console.show("generation 3, writing 4/8")


def test_plain_lines():
    stream = io.StringIO()
    run(Console(stream))
    assert stream.getvalue().splitlines() == [
        "resuming at step 10 of stage dpo (200 steps); note",
        "dpo: compiled in 3.2 s",
        "dpo   20/200  loss 0.6931  grad_norm 1.2500  lr 5.00e-07  rewards/accuracies 0.7500  tok/s 12.3k",
        "warning: careful",
        "dpo   20/200  eval_loss 0.5000  eval_rewards/accuracies 0.8000",
    ]


def test_secondary_processes_are_silent():
    stream = io.StringIO()
    run(Console(stream, primary=False))
    assert stream.getvalue() == ""


def everything(terminal):
    """What was written to a terminal whose other side is closed; Linux then ends it with an error."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 4096):
            parts.append(part)
    return b"".join(parts).decode()


def test_terminal_has_a_bar_and_the_same_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        run(Console(stream))
    text = everything(ours)
    os.close(ours)
    assert "\x1b[" in text
    assert "compiling" in text
    assert "20/200" in text
    assert "dpo: generation 3, writing 4/8" in text
    assert "dpo   20/200  loss 0.6931" in text
    assert "warning: careful" in text


@pytest.mark.parametrize(("value", "shown"), [(0.00012, "0.0001"), (1234567.0, "1.235e+06"), (-3.0, "-3.0000")])
def test_numbers(value, shown):
    assert format_record({"stage": "s", "step": 1, "loss": value}, 9) == f"s  1/9  loss {shown}"
