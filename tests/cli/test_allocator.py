"""A process that trains is started anew once, with memory in huge pages, and only where the C library can."""

import os
import subprocess
import sys

import pytest

from jaxpo.cli import allocator
from jaxpo.cli.allocator import OFF, SETTING, TUNABLES, reason_against, restart


@pytest.fixture
def started(monkeypatch):
    """What the process is started anew with, by a C library that knows the settings."""
    calls = []
    monkeypatch.setattr(allocator, "glibc", lambda: (2, 36))
    monkeypatch.setattr(allocator, "DEVICES", ())
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    for name in (TUNABLES, OFF):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_training_starts_anew_with_the_whole_command(started, monkeypatch):
    command = [sys.executable, "-m", "jaxpo", "run", "sft", "--seed", "1"]
    restart(["run", "sft", "--seed", "1"], command)
    monkeypatch.setenv(TUNABLES, "glibc.malloc.arena_max=2")
    restart(["run", "sft"], command)
    assert [(call[0], call[1]) for call in started] == [(sys.executable, command)] * 2
    wanted = f"{SETTING}=1"
    assert [call[2][TUNABLES] for call in started] == [wanted, f"glibc.malloc.arena_max=2:{wanted}"]


@pytest.mark.parametrize("words", [[], ["--help"], ["env"], ["generate", "run"]])
def test_what_does_not_train_does_not(started, words):
    restart(words, ["jaxpo", *words])
    assert not started


@pytest.mark.parametrize(
    ("environment", "version", "reason"),
    [
        ({TUNABLES: f"{SETTING}=1"}, (2, 36), f"{TUNABLES} says {SETTING}=1"),
        ({TUNABLES: f"{SETTING}=0"}, (2, 36), f"{TUNABLES} says {SETTING}=0"),
        ({OFF: "0"}, (2, 36), f"{OFF} is 0"),
        ({}, (2, 31), "needs glibc 2.35"),
        ({}, (0,), "needs glibc 2.35"),
        ({}, (2, 35), None),
    ],
)
def test_reasons_against(started, monkeypatch, environment, version, reason):
    monkeypatch.setattr(allocator, "glibc", lambda: version)
    assert reason_against(environment) == reason


def test_where_an_accelerator_computes_the_memory_is_left_as_it_is(started, monkeypatch):
    monkeypatch.setattr(allocator, "DEVICES", ("null",))
    assert reason_against({}) == "not where an accelerator computes (/dev/null)"
    assert reason_against({"JAX_PLATFORMS": "cpu"}) is None


def test_the_command_starts_anew_only_once():
    """The setting is in the environment of what is started, so that it goes on as it is."""
    script = (
        "import os, sys, jaxpo.__main__ as m, jaxpo.cli.allocator as h\n"
        "m.main = lambda: print(os.environ.get(h.TUNABLES), sys.argv[1:])\n"
        "h.reason_against = lambda e: 'set' if h.SETTING in e.get(h.TUNABLES, '') else None\n"
        "m.command()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    command = [sys.executable, "-c", script, "run", "a b"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert out == f"{SETTING}=1 ['run', 'a b']\n"
