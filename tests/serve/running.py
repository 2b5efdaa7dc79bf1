"""A server on a thread of the test, at a free port of this machine."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import httpx2
import openai

from jaxpo.sampling.sampler import Sampler
from jaxpo.serve.desk import Desk, Limits
from jaxpo.serve.engine_thread import EngineThread
from jaxpo.serve.served import Served
from jaxpo.serve.server import Server, address_of, bind


@contextlib.contextmanager
def running(
    engine, tokenizer, *, vocabulary=None, context=256, slots=None, grace=5.0, key=None, hosts=(), viewer=None, **limits
):
    """A server; `status` is what it ended with, `lines` is its log."""
    served = Served(
        name="tiny",
        tokenizer=tokenizer,
        vocabulary=vocabulary or tokenizer.vocab_size,
        context=context,
        stop_ids=(tokenizer.eos_id,),
        sampler=Sampler(),
        created=1,
        viewer=viewer,
    )
    bound = bind("127.0.0.1", 0)
    found = SimpleNamespace(lines=[], status=None, engine=engine, url=address_of(bound))
    found.port = bound.getsockname()[1]
    ready = threading.Event()
    thread = EngineThread(engine, died=lambda: found.server.engine_died())
    found.desk = Desk(served, thread, slots or engine.load.slots, Limits(**limits), key, hosts)
    found.server = Server(found.desk, bound, grace=grace, ready=ready.set, log=found.lines.append)

    def run():
        found.status = found.server.run()

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    assert ready.wait(30)
    found.client = openai.OpenAI(base_url=f"{found.url}/v1", api_key=key or "none", max_retries=0)
    found.http = httpx2.Client(base_url=found.url, timeout=60, trust_env=False)
    found.worker = worker
    try:
        yield found
    finally:
        found.http.close()
        found.client.close()
        found.server.stop()
        worker.join(60)
        assert not worker.is_alive()


def wait_for(condition, seconds=20.0):
    """Poll until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)


def raw(port, data, *, end=True):
    """What a server answers to bytes; `end` = nothing more comes from here."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)
