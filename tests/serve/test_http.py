"""What lies below the bodies: keys, limits, ids, half of a request; and what a server says of itself."""

import json
import re

import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from serve.conftest import ANSWER
from serve.running import raw, running, wait_for

ASKED = {"model": "tiny", "prompt": "the", "max_tokens": 3}


def posted(server, content, **headers):
    return server.http.post("/v1/completions", content=content, headers={"content-type": "application/json"} | headers)


def test_an_error_has_openais_form(scripted):
    found = posted(scripted, json.dumps(ASKED | {"n": "two"}))
    assert found.status_code == 400
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}
    assert found.json()["error"]["param"] == "n"
    with pytest.raises(openai.BadRequestError) as caught:
        scripted.client.completions.create(**ASKED | {"n": "two"})
    assert caught.value.param == "n"


@pytest.mark.parametrize(("content", "status"), [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b"", 400)])
def test_half_a_body_is_refused(scripted, content, status):
    assert posted(scripted, content).status_code == status


def test_a_form_and_a_text_are_refused(scripted):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        found = posted(scripted, json.dumps(ASKED), **{"content-type": kind})
        assert (found.status_code, found.json()["error"]["code"]) == (415, "not_json")


def test_other_paths_and_methods(scripted):
    assert scripted.http.get("/v2/models").status_code == 404
    assert scripted.http.get("/v1/completions").status_code == 405
    assert scripted.http.post("/health").json()["error"]["code"] == "not_found"


def test_another_model_is_not_found(scripted):
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        scripted.client.completions.create(**ASKED | {"model": "gpt-4"})


def test_a_large_body_is_refused_whether_or_not_it_says_so(scripted):
    for declared in (True, False):
        chunks = (b"a" * 2**20 for _ in range(10))
        content = b"a" * 10 * 2**20 if declared else chunks
        found = posted(scripted, content)
        assert (found.status_code, found.json()["error"]["code"]) == (413, "too_large")
    scripted.client.completions.create(**ASKED)


HEAD = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_a_client_that_leaves_within_its_body(scripted):
    before = scripted.desk.metrics.gone
    assert raw(scripted.port, f'{HEAD}content-length: 500\r\n\r\n{{"prompt"'.encode()) == b""
    wait_for(lambda: scripted.desk.metrics.gone == before + 1)
    wait_for(lambda: scripted.desk.places.taken == 0)


def test_a_body_that_never_ends_is_given_up(tokenizer):
    engine = ScriptedEngine(tokenizer, lambda request, sample: [])
    with running(engine, tokenizer, body_seconds=0.3) as server:
        request = f'{HEAD}connection: close\r\ncontent-length: 500\r\n\r\n{{"prompt"'.encode()
        assert b"408 Request Timeout" in raw(server.port, request, end=False)
        wait_for(lambda: server.desk.places.taken == 0)


def test_what_is_no_http_is_refused(scripted):
    assert raw(scripted.port, b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.fixture(scope="module")
def locked(tokenizer):
    engine = ScriptedEngine(tokenizer, lambda request, sample: tokenizer.encode(ANSWER))
    with running(engine, tokenizer, key="s3cret", hosts=()) as found:
        yield found


def test_without_the_key_nothing_is_told_but_health(locked):
    for path in ("/v1/models", "/metrics", "/tokenizer_info", "/nothing"):
        for given in (None, "Bearer wrong", "s3cret", "Basic s3cret", "Bearer ü"):
            headers = {} if given is None else {"authorization": given.encode()}
            found = locked.http.get(path, headers=headers)
            assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
    assert posted(locked, json.dumps(ASKED)).status_code == 401
    assert locked.http.get("/health").json() == {"status": "ok"}
    assert locked.client.completions.create(**ASKED).choices[0].text
    with pytest.raises(openai.AuthenticationError):
        locked.client.with_options(api_key="other").models.list()


def test_a_page_elsewhere_cannot_reach_an_open_server_by_a_name_of_its_own(tokenizer):
    engine = ScriptedEngine(tokenizer, lambda request, sample: [])
    with running(engine, tokenizer, hosts=("localhost", "127.0.0.1", "::1")) as server:
        assert server.http.get("/v1/models").status_code == 200
        for name in ("evil.example", "evil.example:8000", "[::2]:80"):
            assert server.http.get("/v1/models", headers={"host": name}).status_code == 403
        for name in ("localhost:9", "LOCALHOST", "[::1]:8000"):
            assert server.http.get("/v1/models", headers={"host": name}).status_code == 200


def test_ids_are_kept_or_made_and_logged(scripted):
    found = posted(scripted, json.dumps(ASKED), **{"X-Request-Id": "mine-1"})
    assert found.headers["x-request-id"] == "mine-1"
    assert found.json()["id"] == "cmpl-mine-1"
    wait_for(lambda: any("id=mine-1 " in line for line in scripted.lines))
    (line,) = [line for line in scripted.lines if "id=mine-1 " in line]
    assert re.fullmatch(
        r"\S+ id=mine-1 POST /v1/completions 200 prompt=\d+ generated=3 seconds=\d+\.\d{3} reason=length", line
    )
    made = [scripted.http.get("/health").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    bad = posted(scripted, json.dumps(ASKED), **{"X-Request-Id": "a b"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "X-Request-Id")
    assert "a b" not in "".join(scripted.lines)
    answer = scripted.client.completions.create(**ASKED, extra_headers={"X-Request-Id": "mine-2"})
    assert answer._request_id == "mine-2"


def test_errors_within_a_stream_reach_the_client(tokenizer):
    """Logits that are not finite end one answer; others go on."""
    ids = tokenizer.encode(ANSWER)
    engine = ScriptedEngine(tokenizer, lambda request, sample: [*ids[:4], None] if request.seed == 1 else ids)
    with running(engine, tokenizer) as server:
        with pytest.raises(openai.InternalServerError, match="not finite"):
            server.client.completions.create(**ASKED | {"max_tokens": 30}, seed=1)
        with pytest.raises(openai.APIError, match="not finite"):
            list(server.client.completions.create(**ASKED | {"max_tokens": 30}, seed=1, stream=True))
        assert server.client.completions.create(**ASKED | {"max_tokens": 60}, seed=2).choices[0].text == ANSWER
        assert not engine.busy


def test_what_the_engine_refuses_is_the_clients_error(scripted):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no seed 666"):
            scripted.client.completions.create(**ASKED, seed=666, stream=stream)
    wait_for(lambda: scripted.desk.places.taken == 0)


def test_metrics_count(scripted):
    def value(name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", scripted.http.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    # A request is counted when its answer has been sent, a moment after the client has it.
    wait_for(lambda: scripted.desk.places.taken == 0)
    name = 'jaxpo_serve_requests_total{path="/v1/completions",status="200"}'
    before, tokens = value(name), value("jaxpo_serve_generated_tokens_total")
    scripted.client.completions.create(**ASKED, n=2)
    wait_for(lambda: value(name) == before + 1)
    assert value("jaxpo_serve_generated_tokens_total") == tokens + 6
    assert value("jaxpo_serve_slots") == 4
    assert value("jaxpo_serve_up") == 1
    assert value("jaxpo_serve_places_taken") == 0
    counted = value("jaxpo_serve_request_seconds_count")
    assert counted == value('jaxpo_serve_request_seconds_bucket{le="+Inf"}') > 0
    assert "# TYPE jaxpo_serve_first_token_seconds histogram" in scripted.http.get("/metrics").text
    scripted.http.get("/of/my/own")
    wait_for(lambda: value('jaxpo_serve_requests_total{path="other",status="404"}') >= 1)


def test_text_to_ids_and_back(scripted, tokenizer):
    def post(path, **body):
        return scripted.http.post(path, json=body)

    text = "the fox<|im_end|>naïve"
    whole = [tokenizer.bos_id, *tokenizer.encode("the fox"), tokenizer.eos_id, *tokenizer.encode("naïve")]
    assert post("/tokenize", prompt=text).json() == {"tokens": whole, "count": len(whole), "max_model_len": 256}
    assert post("/tokenize", prompt=text, add_special_tokens=False).json()["tokens"] == whole[1:]
    assert post("/detokenize", tokens=whole).json() == {"prompt": f"<|startoftext|>{text}"}
    assert post("/detokenize", tokens=[10_000]).json()["error"]["param"] == "tokens"
    info = scripted.http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<|startoftext|>", "<|im_end|>", "<|pad|>")
    assert "im_start" in info["chat_template"]
