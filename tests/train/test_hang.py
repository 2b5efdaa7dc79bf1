"""The watch over steps that hang: told once per hang, with the place, by a clock that nobody sets."""

import threading
import time

import pytest
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.errors import TRY_AGAIN
from jaxpo.train.hang import HangWatch

LIMIT = 0.08


def stuck_in_a_step(seconds):
    time.sleep(seconds)


def watch(folder, **changes):
    return HangWatch(LIMIT, folder, lambda: "stage sft, step 12", **changes)


def test_a_step_that_hangs_is_told_once_with_its_place(tmp_path, capfd):
    with watch(tmp_path) as hang:
        hang.beat()
        stuck_in_a_step(4 * LIMIT)
        hang.beat()
    text = (tmp_path / "hung_steps.txt").read_text()
    assert text.count("process 0: stage sft, step 12 has taken more than 0.08 s") == 1
    assert "in stuck_in_a_step" in text
    error = capfd.readouterr().err
    assert f"the stacks of its threads are in {tmp_path / 'hung_steps.txt'}" in error
    assert "in stuck_in_a_step" in error


def test_neither_the_compilation_nor_what_is_paused_nor_quick_steps_are_told(tmp_path, capfd, monkeypatch):
    """A clock that jumps by a day in either direction is none of its business."""
    with watch(tmp_path) as hang:
        stuck_in_a_step(2 * LIMIT)
        hang.beat()
        assert hang.unwatched(lambda a, *, b: stuck_in_a_step(2 * LIMIT) or (a, b))(1, b=2) == (1, 2)
        now = time.time()
        for day in (86400, -86400, 0):
            monkeypatch.setattr(time, "time", lambda day=day: now + day)
            hang.beat()
            stuck_in_a_step(LIMIT / 4)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_the_process_ends_with_its_own_code_where_that_is_asked_for(tmp_path, capfd):
    left = threading.Event()
    with watch(tmp_path, ends=True, leave=lambda code: left.set() if code == TRY_AGAIN else None) as hang:
        hang.beat()
        assert left.wait(20)
    assert "the process ends with 75; the same command goes on" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", [0, 0.0])
def test_zero_watches_nothing(tmp_path, seconds):
    before = threading.active_count()
    with HangWatch(seconds, tmp_path, lambda: "") as hang:
        hang.beat()
        assert threading.active_count() == before


def test_a_full_disk_does_not_hide_the_hang(tmp_path, capfd):
    with watch(tmp_path / "absent") as hang:
        hang.beat()
        stuck_in_a_step(4 * LIMIT)
    error = capfd.readouterr().err
    assert "hung_steps.txt could not be written: No such file or directory" in error
    assert "in stuck_in_a_step" in error


def test_training_that_waits_for_data_is_told_by_step_and_goes_on(tmp_path, capfd):
    """Of the loop itself: the fourth batch comes late, the others and the evaluations do not count."""

    class Late(toy.Source):
        def at(self, rows_seen, state):
            stuck_in_a_step(4 if rows_seen == 3 * toy.ROWS else 0)
            return super().at(rows_seen, state)

    toy.train(tmp_path, 5, source=Late(), evaluate=lambda state: stuck_in_a_step(2) or {"loss": 0.0}, hang_timeout=1.5)
    text = (tmp_path / "stages" / "toy" / "hung_steps.txt").read_text()
    assert "stage toy, step 4 has taken more than 1.5 s" in text
    assert "in stuck_in_a_step" in text
    assert CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints").latest() == 5
