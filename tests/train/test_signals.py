"""Stop: the first signal is noted, the second is not held back, an ignored one stays so, handlers are put back."""

import os
import signal

import pytest

from jaxpo.train.signals import Preempted, Stop


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.usefixtures("default_signals")
def test_sigint_is_noted_once():
    before = handlers()
    with Stop() as stop:
        assert stop.requested(1) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(2) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


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
    with Stop() as stop:
        os.kill(os.getpid(), ignored)
        assert stop.requested(1) is None
        os.kill(os.getpid(), noted)
        assert stop.requested(2) == noted
        os.kill(os.getpid(), ignored)
        assert stop.requested(3) == noted
    assert handlers() == before


def test_exit_codes():
    assert Preempted("", signal.SIGTERM).exit_code == 143
    assert Preempted("", signal.SIGINT).exit_code == 130
