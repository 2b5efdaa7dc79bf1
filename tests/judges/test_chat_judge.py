"""A chat endpoint as a judge, against a server that misbehaves in every way that one can."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from construct.pairs_bench import made

from jaxpo.errors import ConfigError
from jaxpo.judges import ChatJudge, Endpoint, Jury
from jaxpo.judges.endpoint import parse_score
from jaxpo.judges.http import EndpointFailure, post_with_retries
from jaxpo.judges.refine import ChatRefiner

DATA = [{"prompt": f"p{i}", "completion": f"give{i}"} for i in range(4)]


class Server:
    """`plan(answer, attempt) -> (status, body or text of the reply[, headers])` for a request about an answer."""

    def __init__(self):
        self.plan = lambda answer, attempt: (200, f"Fine.\nScore: {len(answer)}")
        self.requests, self.attempts, self.lock = [], {}, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = body["messages"][1]["content"].split("<answer>\n")[1].split("\n</answer>")[0]
                with outer.lock:
                    outer.requests.append((self.path, dict(self.headers), body))
                    outer.attempts[answer] = outer.attempts.get(answer, 0) + 1
                status, text, *headers = outer.plan(answer, outer.attempts[answer])
                if status == "hang up":
                    self.connection.close()
                    return
                message = {"choices": [{"message": {"role": "assistant", "content": text}}]}
                reply = text if isinstance(text, bytes) else json.dumps(message).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a proxy of the caller's does not know this machine
    it = Server()
    yield it
    it.http.shutdown()
    it.http.server_close()


def judge(server, **options):
    return ChatJudge(Endpoint(server.url, "grader", backoff=0.01, concurrency=4, **options))


def test_the_question_and_the_score(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADER_KEY", "s3cret")
    pairs, shop = made(DATA[:1], judge(server, key_variable="GRADER_KEY"), tmp_path, samples=2)
    assert (pairs[0]["chosen"], pairs[0]["rejected"], pairs[0]["scores"]) == ("give0", "p0-0", [5.0, 4.0])
    question = "<prompt>\np0\n</prompt>\n\n<answer>\ngive0\n</answer>"
    # Answers are judged side by side, so they arrive in any order.
    (path, headers, body), *again = [ask for ask in server.requests if ask[2]["messages"][1]["content"] == question]
    assert not again
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert (body["model"], body["temperature"]) == ("grader", 0.0)
    assert "number from 1 (useless) to 10 (excellent)" in body["messages"][0]["content"].replace("\n", " ")
    assert all("s3cret" not in file.read_text() for file in tmp_path.iterdir())
    assert shop.counts["score_asked"] == 3


@pytest.mark.parametrize(
    "reply",
    [
        (429, b"slow down", ("Retry-After", "0")),
        (500, b"oops"),
        (200, b"<html>not JSON</html>"),
        (200, b'{"choices": []}'),
        (200, " "),
        (200, "Half a character, \ud83d.\nScore: 4"),
        ("hang up", ""),
    ],
)
def test_what_passes_is_asked_again_at_once(server, tmp_path, reply):
    """Every answer's first request goes wrong: no failure remains, and none counts as one of the judge's."""
    server.plan = lambda answer, attempt: reply if attempt == 1 else (200, f"Score: {len(answer)}")
    pairs, shop = made(DATA, judge(server), tmp_path, samples=1)
    assert len(pairs) == 4
    assert shop.counts["score_failed_asks"] == 0
    assert set(server.attempts.values()) == {2}


def test_a_judge_that_fails_half_way_is_asked_again_by_the_next_run(server, tmp_path):
    """After a while the server breaks for good: garbage, NaN, out of range, 500. The rows are left out and said so."""
    broken = {
        "p1-0": (200, "I like it!"),
        "p2-0": (200, "Score: nan"),
        "p3-0": (200, "**Score:** 11/10"),
        "p0-0": (503, b"overloaded"),
    }
    server.plan = lambda answer, attempt: broken.get(answer, (200, "Score: 7"))
    pairs, shop = made(DATA, judge(server, retries=1), tmp_path, samples=1, tries=2)
    assert pairs == []
    assert shop.counts["rows_left_out_judge_failed"] == 4
    assert sorted(shop.failures) == [
        "HTTP 503: overloaded (after 2 attempts)",
        "no line `Score: NUMBER` in the reply, which ends with 'I like it!'",
        "the score 11.0 lies outside [1, 10]; the reply ends with '**Score:** 11/10'",
        "the score nan lies outside [1, 10]; the reply ends with 'Score: nan'",
    ]
    assert server.attempts["p0-0"] == 4  # two tries of two attempts
    server.plan = lambda answer, attempt: (200, "Score: 3")
    before = len(server.requests)
    pairs, _ = made(DATA, judge(server), tmp_path, samples=1)
    assert [p["scores"] for p in pairs] == [[7.0, 3.0]] * 4
    assert len(server.requests) - before == 4


@pytest.mark.parametrize(("status", "said"), [(401, "key is missing or wrong"), (404, "no such address or model")])
def test_what_would_fail_for_every_answer_stops_at_once(server, tmp_path, status, said):
    server.plan = lambda answer, attempt: (status, b"no")
    with pytest.raises(ConfigError, match=f"HTTP {status}, .*{said}"):
        made(DATA, judge(server), tmp_path, samples=1)


def test_an_answer_that_the_endpoint_refuses_is_not_repeated(server, tmp_path):
    server.plan = lambda answer, attempt: (400, b"too long") if answer == "p1-0" else (200, f"Score: {len(answer)}")
    pairs, shop = made(DATA, judge(server), tmp_path, samples=1, tries=1)
    assert len(pairs) == 3
    assert dict(shop.failures) == {"HTTP 400: too long": 1}
    assert server.attempts["p1-0"] == 1


def test_the_pauses_grow_up_to_a_limit_and_obey_the_server(server):
    server.plan = lambda answer, attempt: (429, b"", *([("Retry-After", "7")] if attempt == 2 else []))
    body = {"messages": [{}, {"content": "<answer>\nx\n</answer>"}]}
    pauses = []
    with pytest.raises(EndpointFailure, match=r"HTTP 429:  \(after 6 attempts\)"):
        post_with_retries(
            f"{server.url}/chat/completions", body, "", timeout=60, retries=5, backoff=10, read=len, pause=pauses.append
        )
    assert pauses == [10, 7, 40, 60, 60]


def test_a_time_limit_and_nobody_there(server):
    gate = threading.Event()
    server.plan = lambda answer, attempt: (gate.wait(60), (200, "Score: 1"))[1]
    options = {"model": "m", "retries": 0, "backoff": 0.0}
    with pytest.raises(EndpointFailure, match=r"[Tt]ime"):
        Endpoint(server.url, timeout=0.1, **options).complete("s", "<answer>\nx\n</answer>")
    gate.set()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(EndpointFailure, match="refused"):
        Endpoint(server.url, **options).complete("s", "x")


def test_a_jury_of_endpoints_and_a_refiner(server, tmp_path):
    """One model's scores are the answer's length, the other's a constant; the refiner adds a word."""

    def plan(answer, attempt):
        model = server.requests[-1][2]["model"]
        if model == "reviser":
            return 200, answer + " indeed"
        return 200, f"Score: {min(10, len(answer)) if model == 'grader' else 4}"

    server.plan = plan
    endpoints = [Endpoint(server.url, name, backoff=0.01, concurrency=1) for name in ("grader", "constant", "reviser")]
    jury, refiner = Jury(tuple(map(ChatJudge, endpoints[:2]))), ChatRefiner(endpoints[2])
    pairs, _ = made(DATA[:2], jury, tmp_path, refiner=refiner, samples=2)
    assert [p["chosen"] for p in pairs] == ["give0 indeed", "give1 indeed"]
    assert pairs[0]["scores"] == [(10 + 4) / 2, (4 + 4) / 2]
    assert len(list(tmp_path.glob("scores-chat-*"))) == 2


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Score: 7", 7.0),
        ("score=8.5/10", 8.5),
        ("First I thought Score: 2.\n\n**Score:** 9", 9.0),
        ("Score:\n10", 10.0),
        ("I would underscore 7", None),
        ("Score: 0", None),
        ("Score: -3", None),
        ("Score: inf", None),
        ("7", None),
    ],
)
def test_scores_are_read_from_a_line_of_their_own(reply, value):
    found = parse_score(reply, 1.0, 10.0)
    assert found.value == value
    assert bool(found.failed) == (value is None)


def test_endpoints_that_are_incomplete(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError) as error:
        ChatJudge(Endpoint("localhost:8000", "", "NO_SUCH_KEY", timeout=0)).check([])
    assert len(error.value.problems) == 4
    with pytest.raises(ConfigError, match=r"from 3.0 to 3.0"):
        ChatJudge(Endpoint("http://x/v1", "m"), low=3.0, high=3.0).check([])
