"""What processes agree on: turns of process 0, comparison at the start, memory, and where a signal stops them."""

import itertools
import json
import signal

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from jaxpo.checkpoint.agreed import on_all
from jaxpo.errors import CheckpointError, DamagedError, RunError
from jaxpo.sharding import make_mesh, row_share, turns
from jaxpo.stages.agreeing import agree
from jaxpo.train.signals import Stop


class Store(dict):
    """The coordination service's."""

    key_value_set = dict.__setitem__

    def blocking_key_value_get(self, key, milliseconds):
        return self.get(key, "")  # what a process that is alike would say

    def key_value_try_get(self, key):
        if key not in self:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self[key]


@pytest.fixture
def become(monkeypatch):
    """Makes this process one of two; process 0 has its turn first."""
    store = Store()
    monkeypatch.setattr(turns, "service", lambda: store)

    def one(index):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: index)
        monkeypatch.setattr(turns, "_turns", itertools.count())
        return store

    return one


def test_one_works_and_all_have_what_it_found(become):
    done = []

    def work():
        done.append(turns.works_alone())
        # Within its turn process 0 waits for nobody, and nobody counts what it does there.
        return {"rows": turns.by_first_process(lambda: [1, 2])}

    for index in (0, 1):
        store = become(index)
        assert turns.by_first_process(work) == {"rows": [1, 2]}
        assert len(store) == 1
        assert not turns.works_alone()
    assert done == [True]


def test_what_stops_process_0_stops_the_others_by_name(become):
    def fail():
        raise KeyError("column")

    become(0)
    with pytest.raises(KeyError):
        turns.by_first_process(fail)
    become(1)
    with pytest.raises(RunError, match="process 0 stopped: KeyError: 'column'"):
        turns.by_first_process(fail)


def test_what_one_cannot_read_has_failed_on_all_and_is_told(become):
    store = become(0)
    store["jaxpo/words/0/1"] = json.dumps(["file.json is cut", ""])
    with pytest.raises(DamagedError, match=r"^process 1: file\.json is cut"):
        on_all(lambda: "read")
    store["jaxpo/words/1/1"] = json.dumps(["", "no permission"])
    with pytest.raises(CheckpointError, match=r"^process 1: no permission$") as found:
        on_all(lambda: (_ for _ in ()).throw(DamagedError("mine is cut")))  # what is no damage stops them all
    assert type(found.value) is CheckpointError
    store["jaxpo/words/2/1"] = json.dumps(["", ""])
    assert on_all(lambda: "read") == "read"
    # In a turn of its own a process asks nobody.
    assert turns.by_first_process(lambda: on_all(lambda: "read")) == "read"


def test_all_wait_for_what_each_does(become):
    store = become(1)
    store["jaxpo/all/0/0"] = json.dumps("DataError: row 3")
    with pytest.raises(RunError, match=r"^process 0 stopped: DataError: row 3$"):
        turns.every_process(lambda: None)
    store["jaxpo/all/1/0"] = json.dumps(None)
    turns.every_process(lambda: None)
    assert json.loads(store["jaxpo/all/1/1"]) is None


def test_a_process_that_was_started_otherwise_says_in_what(become):
    become(0)
    agree({"jax": "1.0", "stages.0.max_steps": 4, "data": None}, "start all alike")
    become(1)
    message = r"process 1 is not as process 0: stages.0.max_steps: 5, not 4; more: True, not None. Start all alike\.$"
    with pytest.raises(RunError, match=message):
        agree({"jax": "1.0", "stages.0.max_steps": 5, "data": None, "more": True}, "start all alike")


def test_the_least_memory_of_all_counts(become, monkeypatch):
    assert turns.least_of_all(8e9) == 8e9
    become(1)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.asarray([float(x), 4e9]))
    assert turns.least_of_all(8e9) == 4e9


def test_processes_count_their_questions_not_the_steps_of_a_stage(become, monkeypatch):
    """JAX agrees on a number to come: steps begin anew with a stage, and the number might never come."""
    become(1)
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda n: asked.append(n) or n == 5)
    stop = Stop()
    found = [stop.requested(step) for step in (1, 2, 3, 1, 2)]
    assert asked == [1, 2, 3, 4, 5]
    assert found == [None] * 4 + [signal.SIGTERM]


def test_who_works_alone_hears_of_a_signal_without_the_others(become, monkeypatch):
    store = become(0)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda n: pytest.fail("waits for others"))
    stop = Stop()
    assert turns.by_first_process(lambda: stop.requested(0)) is None
    store[turns.NOTICE] = "now"
    assert turns.by_first_process(lambda: stop.requested(0)) == signal.SIGTERM


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"tensor": 8}])
def test_one_process_brings_the_whole_batch(sizes):
    assert row_share(make_mesh(sizes)) == (0, 1)
