"""Where a process stands among others, as its environment says; and who is named when one does not come."""

import os
import socket
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpo.errors import RunError
from jaxpo.sharding import make_mesh, multihost, to_host
from jaxpo.sharding.multihost import Place, find_place, start_processes
from jaxpo.sharding.roll_call import answer_roll, call_roll

EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "ten:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[003-006],other",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"PATH": "/bin", "JAX_PLATFORMS": "cpu"}, None),
        (EXPLICIT, Place("ten:1234", 4, 3)),
        (SLURM, Place("node003:61441", 4, 2, (0,))),
        (OPEN_MPI, Place("10.96.0.1:61441", 2, 1, (1,))),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "ten:9"}, Place("ten:9", 4, 2, (0,))),
        (SLURM | EXPLICIT, Place("ten:1234", 4, 3)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # The shell of an allocation, not a step of it.
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),
        (SLURM | {"JAX_NUM_PROCESSES": "1"}, None),
        (KUBERNETES | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_what_an_environment_says(monkeypatch, environ, expected):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert find_place(environ) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID is 4 and JAX_NUM_PROCESSES 4: processes have the numbers 0 to 3"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID: expected a whole number of at least 0, got '-1'"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES: expected a whole number of at least 1, got 'two'"),
        ({"JAX_NUM_PROCESSES": "1"}, "JAX_PROCESS_ID is 3 and JAX_NUM_PROCESSES 1"),
        ({"JAX_COORDINATOR_ADDRESS": "ten"}, "expected HOST:PORT of process 0, got 'ten'"),
        ({"JAX_COORDINATOR_ADDRESS": "ten:99999"}, "expected HOST:PORT of process 0, got 'ten:99999'"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, JAX_COORDINATOR_ADDRESS not"),
        (
            {"JAX_NUM_PROCESSES": "", "JAX_PROCESS_ID": ""},
            "JAX_COORDINATOR_ADDRESS is set, JAX_NUM_PROCESSES and JAX_PROCESS_ID not: set all three",
        ),
        ({"JAXPO_START_TIMEOUT": "soon"}, "JAXPO_START_TIMEOUT: expected a whole number of at least 1, got 'soon'"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message):
    with pytest.raises(RunError, match=f"^{message}"):
        start_processes(EXPLICIT | changes)


def test_a_cluster_that_cannot_be_read_is_named(monkeypatch):
    from jax._src.clusters import ClusterEnv

    monkeypatch.setattr(ClusterEnv, "_cluster_types", [])
    with pytest.raises(RunError, match=r"looks like an indexed Kubernetes job, .* JAX_NUM_PROCESSES=1 to run in one"):
        find_place(KUBERNETES)


def test_one_process_and_one_that_has_started_are_left_alone(monkeypatch):
    def never(*args):
        pytest.fail("started")

    monkeypatch.setattr(jax.distributed, "initialize", never)
    start_processes({})
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(multihost, "find_place", never)
    start_processes(EXPLICIT)


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def meet(address, count, *others, seconds=0.6):
    """What process 0 and others, (number, count) each, say: None when all came."""
    deadline, said = time.monotonic() + seconds, [None] * (len(others) + 1)

    def enter(i, call, *arguments):
        try:
            call(*arguments)
        except RunError as error:
            said[i] = str(error)

    calls = [(call_roll, address, count, deadline, address)]
    calls += [(answer_roll, address, number, of, deadline) for number, of in others]
    threads = [threading.Thread(target=enter, args=(i, *call)) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_all_go_on_when_all_are_there(address):
    began = time.monotonic()
    assert meet(address, 4, (2, 4), (1, 4), (3, 4), seconds=20) == [None] * 4
    assert time.monotonic() - began < 10


def test_everybody_hears_who_is_missing(address):
    said = meet(address, 4, (2, 4))
    assert said[0] == said[1]
    assert said[0].startswith(f"processes 1, 3 did not come: 2 of 4 are missing at {address} (process 0). See whether")
    assert "JAXPO_START_TIMEOUT (seconds) gives them longer" in said[0]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([(1, 2)], "process 1 was started as one of 2 processes, and process 0 as one of 3."),
        ([(1, 3), (1, 3)], "two processes have the number 1, or it is none of 1 to 2."),
        ([(0, 3)], "two processes have the number 0, or it is none of 1 to 2."),
    ],
)
def test_everybody_hears_who_does_not_fit(address, others, message):
    assert meet(address, 3, *others, seconds=20) == [message] * (1 + len(others))


def test_strangers_and_those_who_left_do_not_count(address):
    host, port = address.split(":")
    said = []
    zero = threading.Thread(target=lambda: said.append(meet(address, 3, seconds=1.0)))
    zero.start()
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"jaxpo 1 3\n"):
        while True:
            try:
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(greeting)
                    time.sleep(0.1)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
    zero.join()
    assert said[0][0].startswith("processes 1, 2 did not come: 2 of 3 are missing")


def test_process_0_is_awaited_and_its_port_must_be_free(address):
    with pytest.raises(RunError, match=f"process 1 of 2 does not reach process 0 at {address}: .*JAXPO_START_TIMEOUT"):
        answer_roll(address, 1, 2, time.monotonic() + 0.5)
    host, port = address.split(":")
    message = f"process 0 cannot listen at {address}: .*choose another port"
    with socket.create_server((host, int(port))), pytest.raises(RunError, match=message):
        call_roll(address, 2, time.monotonic() + 5, address)


def test_arrays_of_one_process_come_as_they_are():
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    mesh = make_mesh({"fsdp": 8})
    tree = {"a": jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp"))), "b": np.float32(2)}
    found = to_host(tree)
    assert type(found["a"]) is np.ndarray
    np.testing.assert_array_equal(found["a"], x)
    assert found["b"] == 2
