"""Stop: the first signal is noted, the second is not held back, handlers are put back."""

import os
import signal

import pytest

from jaxpo.train.signals import Preempted, Stop


def test_sigint_is_noted_once():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert stop.requested(1) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(2) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_handlers_are_put_back_without_a_signal():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_exit_codes():
    assert Preempted("", signal.SIGTERM).exit_code == 143
    assert Preempted("", signal.SIGINT).exit_code == 130
