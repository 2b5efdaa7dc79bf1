"""Programs that raise, loop, print, fork, allocate, and look around: behind bubblewrap, and with limits alone."""

from __future__ import annotations

import os
import time

import pytest

import jaxpo.sandbox as sandbox
from jaxpo.errors import ConfigError
from jaxpo.sandbox import Limits, Sandbox, why_no_fence

FEW = Limits(seconds=4.0, memory=256 << 20, output=1000, processes=8, disk=1 << 20)
fenced = pytest.mark.skipif(bool(why_no_fence()), reason=why_no_fence() or "bubblewrap works")


@pytest.fixture(params=["fenced", "unsandboxed"])
def box(request, monkeypatch):
    """A sandbox of each kind."""
    if request.param == "fenced":
        if why_no_fence():
            pytest.skip(why_no_fence())
        return Sandbox(FEW)
    monkeypatch.setattr(sandbox, "why_no_fence", lambda: "there is none in this test")
    return Sandbox(FEW, unsandboxed=True)


def test_what_it_prints_and_reads(box):
    code = "import sys; print(sys.stdin.read().upper()); print(open('../input/a.txt').read(), file=sys.stderr)"
    result = box.python(code, stdin="wörter", files={"a.txt": "beside"})
    assert (result.kind, result.output, result.errors, result.code) == ("ok", "WÖRTER\n", "beside\n", 0)
    assert result.ok
    assert result.why == ""
    assert result.printed == len("WÖRTER\nbeside\n".encode())


def test_one_that_raises(box):
    result = box.python("print('so far'); raise ValueError('no such thing')")
    assert (result.kind, result.code, result.output) == ("raised", 1, "so far\n")
    assert result.why == "ended with 1: ValueError: no such thing"
    assert box.python("import sys; sys.exit(7)").why == "ended with 7"
    assert box.python("import os; os.kill(os.getpid(), 6)").code == 134


def test_one_that_loops(box):
    began = time.monotonic()
    result = Sandbox(Limits(seconds=1.0), box.unsandboxed).python("print('begun', flush=True)\nwhile True: pass")
    assert (result.kind, result.code, result.output) == ("timed out", None, "begun\n")
    assert 1.0 <= time.monotonic() - began < 4.0
    assert result.why.startswith("was stopped after 1.")


def test_one_that_prints_a_megabyte(box):
    result = box.python("print('x' * (1 << 20), end='')")
    assert result.kind == "too much output"
    assert result.output == "x" * 1000
    assert result.printed == 1 << 20
    assert "1,048,576 bytes" in result.why


@pytest.mark.parametrize("code", ["bytearray(1 << 40)", "x = []\nwhile True: x.append(bytearray(1 << 22))"])
def test_one_that_allocates(box, code):
    assert box.python(code).kind == "out of memory"


def test_one_that_fills_the_disk(box):
    result = box.python("open('big', 'wb').write(b'0' * (2 << 20))")
    assert result.kind == "raised"
    assert "too large" in result.why or "No space" in result.why


def test_what_it_leaves_running_is_ended(box, tmp_path):
    """A child that outlives its parent does not keep the outputs open, nor itself alive."""
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\nprint(1)"
    result = box.python(code)
    assert (result.kind, result.output) == ("ok", "1\n")
    assert result.seconds < 3.0


FORKS = """
import os, time
made = 0
try:
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno)
"""


@fenced
def test_one_that_forks():
    result = Sandbox(FEW).python(FORKS)
    assert result.output == "7 11\n"
    assert result.seconds < FEW.seconds


@fenced
@pytest.mark.parametrize("path", [__file__, "/etc/passwd", os.path.expanduser("~/.bashrc"), "/proc/1/root/etc/passwd"])
def test_one_that_reads_a_file_outside(path):
    result = Sandbox(FEW).python(f"print(open({path!r}).read())")
    assert result.kind == "raised"
    assert "No such file" in result.why or "Permission denied" in result.why
    assert Sandbox(FEW, readable=(__file__,)).python(f"print(len(open({__file__!r}).read()))").ok


@fenced
def test_one_that_opens_a_socket():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')"
        result = Sandbox(FEW).python(code)
    assert result.kind == "raised"
    assert "refused" in result.why or "unreachable" in result.why


@fenced
def test_nothing_outside_changes_and_no_secret_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "1234")
    code = "import os; print('SECRET_KEY' in os.environ, os.listdir('.'), os.getuid() != 0)"
    assert Sandbox(FEW).python(code).output == "False [] True\n"
    for path in ("/usr/written", "../input/main.py"):
        assert Sandbox(FEW).python(f"open({path!r}, 'w')").kind == "raised"


def test_without_a_fence_it_refuses(monkeypatch):
    monkeypatch.setattr(sandbox, "why_no_fence", lambda: "bubblewrap (bwrap) is not installed")
    with pytest.raises(ConfigError, match=r"bwrap\) is not installed. Install bubblewrap .* --unsandboxed"):
        Sandbox().python("print(1)")


def test_a_missing_fence_is_noticed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    why_no_fence.cache_clear()
    try:
        assert why_no_fence() == "bubblewrap (bwrap) is not installed"
    finally:
        why_no_fence.cache_clear()


def test_wrong_settings():
    with pytest.raises(ConfigError, match=r"seconds is 0 but must be above 0"):
        Limits(seconds=0)
    with pytest.raises(ConfigError, match=r"a file's name is '\.\./x'"):
        Sandbox(unsandboxed=True).python("", files={"../x": ""})
