"""Stop: a signal stops at once or is noted, the second is not held back, an ignored one stays so, handlers go back."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxpo.train import watchman
from jaxpo.train.signals import Preempted, Stop


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.usefixtures("default_signals")
def test_sigint_is_noted_once(monkeypatch):
    monkeypatch.setattr(watchman, "GRACE", 0.01)
    before = handlers()
    with Stop() as stop, stop.later():
        assert stop.requested(1) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(2) == signal.SIGINT
        time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


@pytest.mark.usefixtures("default_signals")
def test_what_a_launcher_passes_on_and_a_scheduler_repeats_is_the_same_stop(monkeypatch):
    """A second SIGINT within the moment, and a second SIGTERM at any time, take nothing of the time to save."""
    monkeypatch.setattr(watchman, "GRACE", 60)
    with Stop() as stop, stop.later():
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.requested(1) == signal.SIGINT
    monkeypatch.setattr(watchman, "GRACE", 0)
    with Stop() as stop, stop.later():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(1) == signal.SIGTERM


@pytest.mark.usefixtures("default_signals")
def test_handlers_are_put_back_without_a_signal():
    before = handlers()
    with Stop():
        assert not {*handlers()} & {*before}
    assert handlers() == before


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(("ignored", "noted"), [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGINT")])
def test_a_signal_that_was_ignored_stays_so_and_the_other_is_noted(ignored, noted):
    """As in a shell script's background job, whose SIGINT is ignored."""
    ignored, noted = signal.Signals[ignored], signal.Signals[noted]
    signal.signal(ignored, signal.SIG_IGN)
    before = handlers()
    with Stop() as stop, stop.later():
        os.kill(os.getpid(), ignored)
        assert stop.requested(1) is None
        os.kill(os.getpid(), noted)
        assert stop.requested(2) == noted
        os.kill(os.getpid(), ignored)
        assert stop.requested(3) == noted
    assert handlers() == before


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_where_nothing_is_half_done_a_signal_stops_at_once(name):
    """It says what was under way, and no more of what is saved than is so."""
    before = handlers()
    with pytest.raises(Preempted, match=f"stopped by {name} during the tokenising; what was saved before") as info:
        _signalled(signal.Signals[name])
    assert info.value.exit_code == 128 + signal.Signals[name]
    assert handlers() == before


def _signalled(number):
    with Stop() as stop, stop.during("the tokenising"), contextlib.suppress(Exception):
        # A library may take an Exception for a failure of its own, and go on.
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("watch", "stop"), [(Stop, Preempted), (lambda: watchman.Watchman(lambda: None), KeyboardInterrupt)]
)
def test_a_stop_that_comes_while_the_collector_calls_back_is_raised_again(watch, stop):
    """Python drops what such a callback raises, and JAX has one."""
    signals = []

    def callback(phase, info):
        if signals:
            os.kill(os.getpid(), signals.pop())

    gc.callbacks.append(callback)
    try:
        with pytest.raises(stop), watch():
            _collect(signals)
        assert not signals
    finally:
        gc.callbacks.remove(callback)


def _collect(signals):
    # Not sent before: the collector may also come by itself, while nobody watches yet.
    signals.append(signal.SIGINT)
    gc.collect()
    time.sleep(5)


@pytest.mark.usefixtures("default_signals")
def test_a_hangup_is_no_signal_to_stop():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested(1) is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.usefixtures("default_signals")
def test_what_is_waited_for_is_said_while_the_main_thread_is_in_compiled_code(monkeypatch):
    """No handler of Python runs before that code returns: here a wait that holds the thread for a while."""
    monkeypatch.setattr(watchman, "GRACE", 0.01)
    said, heard = [], threading.Event()

    def say(line):
        said.append(line)
        heard.set()

    with Stop(say) as stop, stop.later(), stop.during("the compilation"):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert _compiled_code(heard)
        assert said == ["stopping: waiting for the compilation; a second Ctrl-C stops at once"]
        assert stop.requested(1) == signal.SIGTERM


def _compiled_code(heard):
    """Hold the main thread without running its handlers; True once the line was said."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return heard.wait(20)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


PROGRAM = """
import hashlib, signal
from jaxpo.train.watchman import Watchman
def answer():
    print("waiting", flush=True)
signal.signal(signal.SIGINT, lambda number, frame: None)
with Watchman(answer):
    print("begun", flush=True)
    # One call into compiled code that takes hours, and never looks for signals.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_a_second_signal_ends_the_process_inside_of_compiled_code():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()


def test_exit_codes():
    assert Preempted("", signal.SIGTERM).exit_code == 143
    assert Preempted("", signal.SIGINT).exit_code == 130
