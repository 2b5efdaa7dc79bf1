"""What processes hear on their lines, with threads and sockets in place of processes."""

import socket
import time

import pytest

from jaxpo.errors import TRY_AGAIN, DataError
from jaxpo.sharding import liveness
from jaxpo.sharding.liveness import Line, together


@pytest.fixture
def lines(monkeypatch):
    """Lines of processes 0, 1 and 2, what each ends with, and the sockets of 1 and 2."""
    monkeypatch.setattr(liveness, "GRACE", 0.05)
    monkeypatch.setattr(liveness, "NEWS", 0.05)
    pairs = {i: socket.socketpair() for i in (1, 2)}
    ended = {}

    def line(i, connections, seconds=60):
        return Line(i, connections, seconds, end=lambda code: ended.setdefault(i, code))

    yield line, pairs, ended
    for pair in pairs.values():
        for end in pair:
            end.close()


def exit_by_error(code):
    raise SystemExit(code)


def wait(until):
    deadline = time.monotonic() + 20
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert until()


def test_a_broken_line_ends_everybody_with_the_name(lines, capfd):
    line, pairs, ended = lines
    zero = line(0, {i: pair[0] for i, pair in pairs.items()})
    line(2, {0: pairs[2][1]})
    pairs[1][1].close()  # as the kernel does for a process that is killed
    wait(lambda: ended == {0: TRY_AGAIN, 2: TRY_AGAIN})
    assert zero.news()[0].startswith("process 1 is gone without a word")
    err = capfd.readouterr().err
    said = "jaxpo: process 1 is gone without a word: it was killed, or its host went down"
    assert all(f"{said}; process {survivor} ends with it. The same command goes on" in err for survivor in (0, 2))


def test_silence_is_noticed_and_beats_are_signs_of_life(lines):
    line, pairs, ended = lines
    line(0, {i: pair[0] for i, pair in pairs.items()}, seconds=0.5)
    line(2, {0: pairs[2][1]}, seconds=0.5)  # of process 1 nobody reads or writes the socket
    began = time.monotonic()
    wait(lambda: ended == {0: TRY_AGAIN, 2: TRY_AGAIN})
    assert time.monotonic() - began > 0.4


def test_who_leaves_by_agreement_alarms_nobody(lines):
    line, pairs, ended = lines
    zero, one = line(0, {1: pairs[1][0]}), line(1, {0: pairs[1][1]})
    assert together(one, lambda: 0) == 0
    pairs[1][1].shutdown(socket.SHUT_RDWR)
    zero._thread.join(20)
    assert not zero._thread.is_alive()
    assert ended == {}


def test_a_mistake_of_one_is_the_others_exit_status(lines, capfd):
    line, pairs, ended = lines
    line(0, {i: pair[0] for i, pair in pairs.items()})
    one, _ = line(1, {0: pairs[1][1]}), line(2, {0: pairs[2][1]})

    def fail():
        raise DataError("row 3 cannot be used")

    with pytest.raises(DataError):
        together(one, fail)
    wait(lambda: ended == {0: 2, 2: 2})
    assert capfd.readouterr().err.count("process 1 stopped: DataError: row 3 cannot be used") == 2


def test_a_collective_that_fails_because_another_stopped_names_the_other(lines, capfd):
    line, pairs, ended = lines
    zero, one = line(0, {1: pairs[1][0]}), line(1, {0: pairs[1][1]})
    one.leave(1, "ZeroDivisionError: planned")
    liveness.stop(zero, OSError("cannot write"))  # a message for the user is shown as well
    assert not ended
    zero._exit = exit_by_error  # in place of the end of this process
    with pytest.raises(SystemExit):
        liveness.stop(zero, ValueError("Gloo AllGather failed: connection closed by peer"))
    assert "process 1 stopped: ZeroDivisionError: planned; process 0 ends with it" in capfd.readouterr().err


def test_an_error_that_a_lost_process_caused_names_that_process(lines, capfd):
    """What a collective says of it is not shown."""
    line, pairs, ended = lines
    one = line(1, {0: pairs[1][1]})
    pairs[1][0].close()
    with pytest.raises(DataError):  # only since the end of this process is a pretence
        together(one, lambda: (_ for _ in ()).throw(DataError("saving failed: connection reset by peer")))
    assert ended == {1: TRY_AGAIN}
    assert "process 0 is gone" in capfd.readouterr().err


def test_alone_there_is_no_line():
    assert together(None, lambda: 7) == 7
