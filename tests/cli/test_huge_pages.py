"""A process that trains is started anew once, with huge pages, and only where the machine has them."""

import os
import subprocess
import sys

import pytest

from jaxpo.cli import huge_pages
from jaxpo.cli.huge_pages import OFF, SETTING, TUNABLES, reason_against, restart


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What the process is started anew with, on a machine that has huge pages."""
    calls = []
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "ENABLED", enabled)
    monkeypatch.setattr(huge_pages, "glibc", lambda: (2, 36))
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
    assert [call[2][TUNABLES] for call in started] == [f"{SETTING}=1", f"glibc.malloc.arena_max=2:{SETTING}=1"]


@pytest.mark.parametrize("words", [[], ["--help"], ["env"], ["generate", "run"]])
def test_what_does_not_train_does_not(started, words):
    restart(words, ["jaxpo", *words])
    assert not started


@pytest.mark.parametrize(
    ("environment", "state", "version", "reason"),
    [
        ({TUNABLES: f"{SETTING}=1"}, "[madvise]", (2, 36), f"{TUNABLES} says {SETTING}=1"),
        ({TUNABLES: f"{SETTING}=0"}, "[madvise]", (2, 36), f"{TUNABLES} says {SETTING}=0"),
        ({OFF: "0"}, "[madvise]", (2, 36), f"{OFF} is 0"),
        ({}, "always madvise [never]", (2, 36), "switched off in the kernel"),
        ({}, None, (2, 36), "enabled: No such file or directory"),
        ({}, "[always]", (2, 31), "needs glibc 2.35"),
        ({}, "[always]", (2, 35), None),
    ],
)
def test_reasons_against(started, monkeypatch, environment, state, version, reason):
    monkeypatch.setattr(huge_pages, "glibc", lambda: version)
    if state is None:
        huge_pages.ENABLED.unlink()
    else:
        huge_pages.ENABLED.write_text(state)
    found = reason_against(environment)
    assert (found is None) == (reason is None)
    assert found is None or found.endswith(reason)


def test_the_command_starts_anew_only_once():
    """The setting is in the environment of what is started, so that it goes on as it is."""
    script = (
        "import os, sys, jaxpo.__main__ as m, jaxpo.cli.huge_pages as h\n"
        "m.main = lambda: print(os.environ.get(h.TUNABLES), sys.argv[1:])\n"
        "h.reason_against = lambda e: 'set' if h.SETTING in e.get(h.TUNABLES, '') else None\n"
        "m.command()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    command = [sys.executable, "-c", script, "run", "a b"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert out == f"{SETTING}=1 ['run', 'a b']\n"
