"""Real processes of which one is lost: the others end in time, name it, and say by their exit status what happened."""

import time
from pathlib import Path

import pytest
from stages.process import finish, kill, places, start_program

PEER = Path(__file__).with_name("peer.py")
SILENCE = 10


@pytest.fixture
def together():
    """Starts processes, all of which are gone afterwards."""
    running = []

    def begin(count, *words):
        for place in places(count, JAXPO_PEER_TIMEOUT=str(SILENCE)):
            running.append(start_program(PEER, *words, environ=place))
        return running

    yield begin
    for process in running:
        if process.poll() is None:
            kill(process)


@pytest.mark.scale
@pytest.mark.parametrize(
    ("count", "what", "who", "status", "said"),
    [
        pytest.param(
            *(3, ("kill",), 1, 75, "process 1 is gone without a word: it was killed, or its host went down"),
            marks=pytest.mark.slow,
        ),
        # The process with JAX's own service, while the others wait for its turn to end.
        (2, ("kill", "turn"), 0, 75, "process 0 is gone without a word: it was killed, or its host went down"),
        (2, ("freeze",), 1, 75, f"process 1 has been silent for {SILENCE} s: it hangs, or its host is gone"),
        pytest.param(*(3, ("fault",), 2, 1, "process 2 stopped: ZeroDivisionError: planned"), marks=pytest.mark.slow),
    ],
)
def test_the_others_end_and_name_it(together, count, what, who, status, said):
    kind, *where = what
    running = together(count, kind, who, *where)
    ended = []
    for process in running[:who] + running[who + 1 :]:
        code, out = finish(process)
        ended.append(time.monotonic())
        assert code == status, out
        assert f"jaxpo: {said}" in out
        assert ("The same command goes on from the last checkpoint" in out) == (status == 75)
    assert ended[-1] - ended[0] < 30
    finish(running[who]) if kind == "fault" else kill(running[who])
    assert running[who].returncode == {"kill": -9, "freeze": -9, "fault": 1}[kind]
