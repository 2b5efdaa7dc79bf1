"""Many clients, of which half vanish; more than there are places; requests that take too long."""

import asyncio
import json
import random
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from serve.running import running, wait_for

from jaxpo.sampling.engine import Engine

ASKED = {"model": "tiny", "prompt": "the", "max_tokens": 60, "logit_bias": {"7": -100}}


def talkative(tokenizer, **options):
    """An engine whose answers never end by themselves."""
    ids = tokenizer.encode("the fox jumps over ") * 60
    return ScriptedEngine(tokenizer, lambda request, sample: ids, **options)


def written(body):
    """A request's bytes."""
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def vanish(port, body, seconds):
    """Ask, and hang up soon: before anything came, or within the stream."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(written(body))
    await writer.drain()
    await asyncio.sleep(seconds)
    writer.close()


async def crowd(server, count):
    rng = random.Random(0)
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits, trust_env=False) as client:
        stays, goes = [], []
        for i in range(count):
            body = ASKED | {"stream": i % 4 < 2, "n": 1 + i % 3, "seed": i}
            if i % 2:
                goes.append(vanish(server.port, body | {"max_tokens": 120}, rng.uniform(0, 0.5)))
            else:
                stays.append(client.post("/v1/completions", json=body))
        found = await asyncio.gather(*stays, *goes)
    return [reply for reply in found if reply is not None]


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.slow)])
def crowded(request, tokenizer, speaker):
    """An engine whose answers never end by themselves."""
    if request.param == "scripted":
        return talkative(tokenizer, slots=8, per_step=4, pause=0.001)
    return Engine(*speaker, tokenizer=tokenizer, slots=4, rounds=4, page=16, together=64, one_shape=True)


def test_half_of_two_hundred_vanish_and_nobody_starves(crowded, tokenizer):
    with running(crowded, tokenizer, queue=1000) as server:
        replies = asyncio.run(crowd(server, 200))
        assert len(replies) == 100
        assert {reply.status_code for reply in replies} == {200}
        for reply in replies:
            assert "[DONE]" in reply.text or reply.json()["usage"]["completion_tokens"] % 60 == 0
        wait_for(lambda: not crowded.busy and server.desk.places.taken == 0)
        assert crowded.load.running == crowded.load.waiting == 0
        gone = server.desk.metrics.gone
        assert gone > 50
        assert sum(" 499 " in line and "reason=gone" in line for line in server.lines) == gone
        # What was left was ended, not finished.
        whole = 100 * 120 * 2 + 100 * 60 * 2
        assert server.desk.metrics.generated_tokens < whole * 3 / 4


def test_more_than_the_places_are_told_to_come_back(tokenizer):
    engine = talkative(tokenizer, slots=2, pause=0.02)
    with running(engine, tokenizer, queue=3) as server:

        async def ask():
            async with httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
                return await asyncio.gather(*(client.post("/v1/completions", json=ASKED) for _ in range(20)))

        replies = asyncio.run(ask())
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) == 15
        assert {reply.json()["error"]["code"] for reply in refused} == {"queue_full"}
        assert all(1 <= int(reply.headers["retry-after"]) <= 30 for reply in refused)
        assert {reply.status_code for reply in replies} == {200, 429}
        with pytest.raises(openai.BadRequestError, match="the server holds 5"):
            server.client.completions.create(**ASKED, n=6)


def test_the_official_client_comes_back_when_it_is_told_to(tokenizer):
    engine = talkative(tokenizer, slots=1, pause=0.02)
    with running(engine, tokenizer, queue=0) as server:
        with ThreadPoolExecutor(2) as pool:
            patient = server.client.with_options(max_retries=5)
            found = list(pool.map(lambda _: patient.completions.create(**ASKED), range(2)))
        assert [len(one.choices) for one in found] == [1, 1]
        assert server.desk.metrics.answered["/v1/completions", 429] >= 1


async def ask_again_and_again(port, times):
    """So many requests on one connection; how many were answered with which status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    counts = Counter()
    for _ in range(times):
        writer.write(written(ASKED))
        reply = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", reply)[1]))
        counts[int(reply.split(b" ", 2)[1])] += 1
    writer.close()
    return counts


@pytest.mark.parametrize("each", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_ten_thousand_requests_are_answered_one_way_or_the_other(tokenizer, each):
    engine = talkative(tokenizer, slots=16, per_step=30, pause=0.05)
    with running(engine, tokenizer, queue=64) as server:

        async def ask():
            return sum(await asyncio.gather(*(ask_again_and_again(server.port, each) for _ in range(100))), Counter())

        counts = asyncio.run(ask())
        assert counts.total() == 100 * each
        assert set(counts) == {200, 429}
        assert counts[200] >= 80
        wait_for(lambda: not engine.busy and server.desk.places.taken == 0)
        assert engine.most == 16


def test_a_request_that_takes_too_long_is_ended(tokenizer):
    engine = talkative(tokenizer, pause=0.05)
    with running(engine, tokenizer, seconds=0.4) as server:
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError, match=r"more than 0\.4 s") as caught:
            server.client.with_options(max_retries=2).completions.create(**ASKED)
        assert caught.value.status_code == 504
        assert time.monotonic() - began < 2  # it was not tried again
        with pytest.raises(openai.APIError, match=r"more than 0\.4 s"):
            list(server.client.completions.create(**ASKED, stream=True))
        wait_for(lambda: not engine.busy and server.desk.places.taken == 0)


def test_a_client_that_does_not_read_does_not_hold_the_others_up(tokenizer):
    engine = talkative(tokenizer, per_step=50)
    with running(engine, tokenizer, context=8192, seconds=1) as server:
        body = ASKED | {"stream": True, "max_tokens": 1000, "logprobs": 20}
        with server.http.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            assert server.client.completions.create(**ASKED).choices
        wait_for(lambda: not engine.busy and server.desk.places.taken == 0)
