"""How a server ends: by a signal, with what runs brought to its end; by the death of its engine."""

import asyncio
import io
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time

import httpx2
import openai
import pytest
from cli.conftest import make_model
from fakes.scripted_engine import ScriptedEngine
from serve.running import running, wait_for

from jaxpo.cli.main import main
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError
from jaxpo.serve.server import bind, is_loopback

ASKED = {"model": "tiny", "prompt": "the", "max_tokens": 40}


def slow(tokenizer, pause=0.05):
    ids = tokenizer.encode("the fox jumps over ") * 40
    return ScriptedEngine(tokenizer, lambda request, sample: ids, pause=pause)


def in_background(ask):
    found = []

    def run():
        try:
            found.append(ask())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_what_runs_ends_by_itself_and_nothing_new_begins(tokenizer):
    engine = slow(tokenizer)
    with running(engine, tokenizer) as server:
        thread, found = in_background(lambda: server.client.completions.create(**ASKED))
        wait_for(lambda: engine.running)
        server.server.stop()
        wait_for(lambda: server.desk.ending)
        assert server.http.get("/health").json() == {"status": "stopping"}
        with pytest.raises(openai.InternalServerError) as caught:
            server.client.completions.create(**ASKED)
        assert (caught.value.status_code, caught.value.code) == (503, "stopping")
        thread.join(20)
        assert found[0].usage.completion_tokens == 40
        server.worker.join(20)
        assert server.status == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health", trust_env=False)


@pytest.mark.parametrize("twice", [False, True])
def test_what_does_not_end_in_time_is_ended(tokenizer, twice):
    engine = slow(tokenizer, pause=0.2)
    with running(engine, tokenizer, grace=60.0 if twice else 0.5) as server:
        thread, found = in_background(lambda: server.client.completions.create(**ASKED))
        wait_for(lambda: engine.running)
        began = time.monotonic()
        server.server.stop()
        if twice:
            server.server.stop()
        thread.join(20)
        server.worker.join(20)
        assert time.monotonic() - began < 5
        assert (found[0].status_code, found[0].code) == (503, "stopping")
        assert server.status == 0


def test_a_dead_engine_is_told_to_everybody(tokenizer, capsys):
    engine = slow(tokenizer)
    with running(engine, tokenizer) as server:
        asks = [in_background(lambda: server.client.completions.create(**ASKED)) for _ in range(3)]
        stream = server.client.completions.create(**ASKED, stream=True)
        wait_for(lambda: len(engine.running) == 4)
        engine.fault = MemoryError("no more")
        with pytest.raises(openai.APIError, match="the engine stopped: MemoryError: no more"):
            list(stream)
        for thread, found in asks:
            thread.join(20)
            assert found[0].status_code == 500
        health = server.http.get("/health")
        assert health.status_code == 503
        assert health.json() == {"status": "dead", "why": "the engine stopped: MemoryError: no more"}
        with pytest.raises(openai.InternalServerError, match="no more"):
            server.client.completions.create(**ASKED)
        server.worker.join(20)
        assert server.status == 1
    assert "MemoryError: no more" in capsys.readouterr().err


def test_a_server_leaves_the_logging_of_the_process_as_it_is(tokenizer):
    closed, handler = [], logging.Handler()
    handler.close = lambda: closed.append(handler)
    with running(slow(tokenizer), tokenizer):
        assert closed == []


def test_asking_while_the_engine_dies_never_hangs(tokenizer):
    """Whatever the order of death and question, there is an answer."""
    for delay in (0.0, 0.01):
        engine = slow(tokenizer, pause=0.005)
        with running(engine, tokenizer) as server:

            async def ask(server=server, engine=engine, delay=delay):
                async with httpx2.AsyncClient(base_url=server.url, timeout=10, trust_env=False) as client:
                    asks = [client.post("/v1/completions", json=ASKED) for _ in range(10)]
                    tasks = [asyncio.create_task(one) for one in asks]
                    await asyncio.sleep(delay)
                    engine.fault = RuntimeError("gone")
                    return await asyncio.gather(*tasks)

            assert {reply.status_code for reply in asyncio.run(ask())} == {500}


def test_a_taken_port_and_an_address_that_is_none():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: cannot be used \(Address already in use\)"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="no such address"):
        bind("no.such.host.invalid", 80)


@pytest.mark.parametrize(("host", "own"), [
    ("127.0.0.1", True), ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False), ("10.1.2.3", False),
    ("no.such.host.invalid", False),
])  # fmt: skip
def test_loopback(host, own):
    assert is_loopback(host) is own


@pytest.mark.parametrize(("options", "said"), [
    (["--host", "0.0.0.0"], "set JAXPO_API_KEY, or --api-key"),
    (["--port", "70000"], "--port is 70000; it must be in 0..65535"),
    (["--slots", "0"], "--slots is 0; it must be at least 1"),
    (["--queue", "-1", "--grace", "nan"], "2 problems"),
    (["--api-key", "a b"], "without blanks"),
    (["--temperature", "-1"], "sampler.temperature is -1"),
    (["--prot", "1"], "Did you mean --port"),
])  # fmt: skip
def test_options_are_checked_before_the_model_is_read(options, said, capsys, monkeypatch):
    monkeypatch.delenv("JAXPO_API_KEY", raising=False)
    assert main(["serve", "no/such/model", *options]) == 2
    assert said in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve", "no/such/model"]) == 2
    assert "uvicorn not installed: pip install 'jaxpo[serve]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "nano", 0)


class Gone(io.StringIO):
    """A log that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_ends_with_0(folder, number, default_signals, monkeypatch, capsys):
    said, found = queue.Queue(), []
    unread = number == signal.SIGTERM
    if unread:
        monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr("jaxpo.cli.serve.say", said.put)

    def ask():
        try:
            url = said.get(timeout=60).split()[-1]
            client = openai.OpenAI(base_url=url, api_key="s3cret", max_retries=0)
            asked = {"model": "fox", "messages": [{"role": "user", "content": "path file"}], "max_tokens": 5}
            found.append(client.chat.completions.create(**asked).usage.completion_tokens)
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=ask)
    thread.start()
    options = ["--port", "0", "--api-key", "s3cret", "--name", "fox", "--slots", "2", "--no-warm-up", "--context", "64"]
    assert main(["serve", str(folder), *options]) == 0
    thread.join()
    assert 1 <= found[0] <= 5
    assert unread or "POST /v1/chat/completions 200" in capsys.readouterr().err


def test_a_taken_port_is_one_line_and_status_2(folder, capsys):
    with bind("127.0.0.1", 0) as taken:
        assert main(["serve", str(folder), "--port", str(taken.getsockname()[1])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Address already in use" in line


def test_a_model_without_rows_for_its_tokenizer_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "small")
    train_tokenizer(["a b c d e f g h i j k l m n o p"] * 8 + [str(n) for n in range(1000)], 360).save(
        tmp_path / "small" / "tokenizer"
    )
    assert main(["serve", str(tmp_path / "small"), "--port", "0"]) == 2
    assert "ids but the model's vocab_size is 352" in capsys.readouterr().err


def test_a_window_that_the_model_does_not_have_is_refused(folder, capsys):
    assert main(["serve", str(folder), "--port", "0", "--context", "1000"]) == 2
    assert "--context is 1000" in capsys.readouterr().err
