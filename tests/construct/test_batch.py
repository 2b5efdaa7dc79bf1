"""A file of answers with an engine that is a table: what is written, left out, refused, and that nothing is lost."""

import hashlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxpo.construct.batch.job import Answering, Job, run_job
from jaxpo.construct.batch.meter import Meter
from jaxpo.construct.batch.settings import differences
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.judges import FunctionJudge
from jaxpo.sampling.request import Generation, Request
from jaxpo.sampling.sampler import Sampler

WORDS = ("yes", "no", "perhaps", "never", "again")
TOKENIZER = train_tokenizer(["what does the fox say, yes no perhaps"], 290)


class Table:
    """An engine whose answer s to row r is a word chosen by (seed, r, s); requests end in an order of their own."""

    def __init__(self, slots=3, fail_at=None, error_rows=()):
        self.slots, self.fail_at, self.error_rows = slots, fail_at, error_rows
        self.waiting, self.submitted, self.steps = [], [], 0

    @property
    def load(self):
        return SimpleNamespace(slots=self.slots)

    def submit(self, request):
        self.submitted.append(request)
        number = len(self.submitted) - 1
        self.waiting += [(number, s) for s in range(request.n)]
        return number

    def step(self):
        self.steps += 1
        if self.steps == self.fail_at:
            raise KeyboardInterrupt
        # The newest first: rows end out of order, and their samples in different steps.
        return [self.answer(*self.waiting.pop()) for _ in range(min(2, len(self.waiting)))]

    def answer(self, number, sample):
        request = self.submitted[number]
        text = word(request.seed, request.number, sample)
        tokens = TOKENIZER.encode(text)
        logps = -np.arange(1, len(tokens) + 1, dtype=np.float32)
        broken = request.number in self.error_rows
        return Generation(
            request=number,
            sample=sample,
            tokens=tokens,
            logps=np.full_like(logps, np.nan) if broken else logps,
            sampling_logps=logps / 2,
            versions=np.zeros(len(tokens), np.int32),
            reason="error" if broken else "stop_id",
            text=text,
            error="the logits are not finite" if broken else None,
        )


def word(seed, number, sample):
    return WORDS[hashlib.sha256(f"{seed} {number} {sample}".encode()).digest()[0] % len(WORDS)]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"what does {i} say", "id": i, "nested": {"a": [i, "é"]}} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def job_of(prompts, out="out.jsonl", **changes):
    request = {name: changes.pop(name) for name in ("n", "seed", "max_new_tokens", "sampler") if name in changes}
    template = Request(prompt=(), **{"max_new_tokens": 16, **request})
    return Job(file=prompts, out=prompts.parent / out, template=template, **changes)


def run(job, engine=None, *, context=200, model="m", say=lambda line: None, **options):
    engine = engine or Table()
    answering = Answering(TOKENIZER, lambda needed: engine, context, {"model": model}, lambda name: None)
    return run_job(job, answering, say=say, **options)


def rows_of(job):
    return [json.loads(line) for line in job.out.read_text().splitlines()]


def judge_of(folder, body):
    path = folder / "judge.py"
    path.write_text(f"def judge(prompt, answer, row):\n    {body}\n")
    return FunctionJudge(f"{path}:judge")


def test_rows_keep_their_columns_and_order_and_get_their_answers(prompts):
    job = job_of(prompts)
    outcome = run(job)
    given = [json.loads(line) for line in prompts.read_text().splitlines()]
    expected = [{**row, "completion": word(0, i, 0), "reason": "stop_id"} for i, row in enumerate(given)]
    assert rows_of(job) == expected
    assert (outcome.rows, outcome.drawn, outcome.reasons) == (7, 7, {"stop_id": 7})


def test_several_answers_are_lists_as_in_data_of_type_list(prompts):
    job = job_of(prompts, n=3, logps=True, seed=5, prefix="new_")
    run(job)
    for i, row in enumerate(rows_of(job)):
        assert row["new_responses"] == [word(5, i, s) for s in range(3)]
        assert row["new_reasons"] == ["stop_id"] * 3
        for s in range(3):
            assert TOKENIZER.decode(row["new_tokens"][s]) == row["new_responses"][s]
            assert row["new_logps"][s] == [-1.0 - k for k in range(len(row["new_tokens"][s]))]
            assert row["new_sampling_logps"][s] == [x / 2 for x in row["new_logps"][s]]


def test_an_answer_to_a_conversation_is_a_turn(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": "hm"}]}) + "\n")
    job = job_of(path)
    engine = Table()
    run(job, engine)
    assert rows_of(job)[0]["completion"] == [{"role": "assistant", "content": word(0, 0, 0)}]
    rendered = TOKENIZER.decode(engine.submitted[0].prompt, skip_special_tokens=False)
    assert rendered.endswith("<|im_start|>user\nhm<|im_end|>\n<|im_start|>assistant\n")


def test_system_and_raw_are_obeyed(prompts):
    for changes, text in (
        ({"raw": True}, "<|startoftext|>what does 0 say"),
        ({"system": "Be brief."}, "<|startoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nwhat"),
    ):
        engine = Table()
        run(job_of(prompts, f"{len(changes)}{next(iter(changes))}.jsonl", **changes), engine)
        assert TOKENIZER.decode(engine.submitted[0].prompt, skip_special_tokens=False).startswith(text)


@pytest.mark.parametrize(("options", "step"), [({}, 2), ({"n": 3}, 4)])
def test_interrupted_again_and_again_it_comes_to_the_same_bytes(prompts, options, step):
    whole = job_of(prompts, "whole.jsonl", **options)
    run(whole)
    job, steps, drawn = job_of(prompts, **options), 0, []
    for _ in range(100):
        engine = Table(fail_at=step)
        try:
            run(job, engine)
        except KeyboardInterrupt:
            steps += 1
            assert not job.out.exists()
            drawn.append({r.number for r in engine.submitted})
            # A kill may leave a piece of a line.
            for ledger in job.folder.glob("answers-*.jsonl"):
                ledger.write_bytes(ledger.read_bytes() + b'{"row": 3, "answ')
            continue
        break
    assert steps > 1
    assert drawn[0] > drawn[-1]  # what was kept is not drawn again
    assert job.out.read_bytes() == whole.out.read_bytes()


def test_the_same_command_after_the_end_draws_nothing(prompts):
    job = job_of(prompts)
    run(job)
    before = job.out.read_bytes()
    engine = Table()
    assert run(job, engine).rows is None
    assert not engine.submitted
    assert job.out.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "model", "line"),
    [
        ({"seed": 1}, "m", "seed: was 0, is 1"),
        ({"sampler": Sampler(temperature=0.5)}, "m", "sampler.temperature: was 1.0, is 0.5"),
        ({"n": 2}, "m", "n: was 1, is 2"),
        ({"logps": True}, "m", "logps: was False, is True"),
        ({"system": "Hm."}, "m", "prompts.system: was None, is 'Hm.'"),
        ({}, "another", "model: was 'm', is 'another'"),
    ],
)
def test_other_settings_are_refused_with_what_differs(prompts, changes, model, line):
    with pytest.raises(KeyboardInterrupt):
        run(job_of(prompts), Table(fail_at=3))
    with pytest.raises(RunError, match="made otherwise") as caught:
        run(job_of(prompts, **changes), model=model)
    assert [x.strip(" -") for x in str(caught.value).splitlines()[1:-1]] == [line]
    job = job_of(prompts, **changes)
    assert run(job, model=model, restart=True).rows == 7
    assert run(job, model=model).rows is None


def test_a_changed_file_of_prompts_is_refused(prompts):
    with pytest.raises(KeyboardInterrupt):
        run(job_of(prompts), Table(fail_at=3))
    prompts.write_text(prompts.read_text().replace("what", "how"))
    with pytest.raises(RunError, match=r"prompts\.content: was '"):
        run(job_of(prompts))


def test_differences_are_named_at_any_depth():
    old, new = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": 1}
    assert differences(old, new) == ["a.b: was 1, is 2", "d: was 1, is None", "e: was None, is 1"]


def test_a_file_that_is_no_jobs_own_is_left_alone(prompts):
    job = job_of(prompts)
    job.out.write_text("mine\n")
    for restart in (False, True):
        with pytest.raises(ConfigError, match="exists already; remove it or name another file"):
            run(job, restart=restart)
    assert job.out.read_text() == "mine\n"


def test_two_at_once_are_refused(prompts):
    job = job_of(prompts)

    class Impatient(Table):
        def submit(self, request):
            with pytest.raises(RunError, match="in use by another process"):
                run(job)
            return super().submit(request)

    assert run(job, Impatient()).rows == 7


BAD = [
    ({"prompt": ""}, "bad.jsonl, row 2, field 'prompt': the prompt is empty."),
    ({"prompt": []}, "bad.jsonl, row 2, field 'prompt'"),
    ({"prompt": " \n"}, "bad.jsonl, row 2, field 'prompt': the prompt is empty."),
    ({"prompt": 3}, "bad.jsonl, row 2, field 'prompt': expected a string, found int."),
    ({"text": "x"}, "bad.jsonl, row 2, field 'prompt': column 'prompt' is missing"),
    ({"prompt": "what " * 200}, "tokens and there is room for 184 (a window of 200, less --max-new-tokens 16)."),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_rows_that_cannot_be_answered_stop_it_before_anything_starts(tmp_path, row, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in ({"prompt": "a"}, row, {"prompt": "b"}, row)))
    engine = Table()
    with pytest.raises(DataError) as caught:
        run(job_of(path), engine)
    assert message in str(caught.value)
    assert "1 more of the rows cannot be answered either." in str(caught.value)
    assert not engine.submitted
    job = job_of(path, skip_bad=True)
    outcome = run(job, engine)
    assert [error.row for error in outcome.skipped] == [2, 4]
    # The row's place in the file names it to the random generator, whatever is left out.
    assert [row["completion"] for row in rows_of(job)] == [word(0, 0, 0), word(0, 2, 0)]


def test_a_broken_line_is_left_out_too(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n{"prompt": "b"}\n')
    with pytest.raises(DataError, match="row 2"):
        run(job_of(path))
    job = job_of(path, skip_bad=True)
    assert [error.row for error in run(job).skipped] == [2]
    assert len(rows_of(job)) == 2


def test_a_file_without_any_usable_row(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match="no row is left to answer"):
        run(job_of(path, skip_bad=True))


def test_a_column_in_the_way_is_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a", "completion": "x"}\n')
    with pytest.raises(DataError, match=r"row 2, field 'completion': there is a column 'completion' already"):
        run(job_of(path))
    job = job_of(path, prefix="my_")
    run(job)
    assert rows_of(job)[1] == {
        "prompt": "a",
        "completion": "x",
        "my_completion": word(0, 1, 0),
        "my_reason": "stop_id",
    }


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one\n\nthree\n")
    job = job_of(path)
    run(job)
    assert rows_of(job) == [
        {"prompt": "one", "completion": word(0, 0, 0), "reason": "stop_id"},
        {"prompt": "three", "completion": word(0, 2, 0), "reason": "stop_id"},
    ]


def test_an_answer_that_ends_in_an_error_is_none(prompts):
    job = job_of(prompts, logps=True)
    outcome = run(job, Table(error_rows=(2,)))
    row = rows_of(job)[2]
    assert (row["completion"], row["reason"], row["error"]) == (None, "error", "the logits are not finite")
    assert row["logps"] is None
    assert outcome.reasons == {"stop_id": 6, "error": 1}
    assert rows_of(job)[3]["completion"] == word(0, 3, 0)


def test_best_of_n_keeps_the_first_of_the_highest_scores(prompts, tmp_path):
    judge = judge_of(tmp_path, "return len(answer)")
    job = job_of(prompts, n=4, judge=judge)
    run(job)
    for i, row in enumerate(rows_of(job)):
        words = [word(0, i, s) for s in range(4)]
        assert row["completion"] == max(words, key=len)
        assert row["score"] == max(map(len, words))
        assert "unscored" not in row
    ties = job_of(prompts, "ties.jsonl", n=4, judge=judge_of(tmp_path, "return 1.0"))
    run(ties)
    assert [row["completion"] for row in rows_of(ties)] == [word(0, i, 0) for i in range(7)]


def test_scores_that_are_none_are_counted_and_their_rows_say_why(prompts, tmp_path):
    body = 'return float("nan") if answer == "never" or row["id"] == 4 else None if answer == "no" else len(answer)'
    job = job_of(prompts, n=3, judge=judge_of(tmp_path, body))
    outcome = run(job)
    for i, row in enumerate(rows_of(job)):
        scored = [w for w in (word(0, i, s) for s in range(3)) if w not in ("never", "no") and i != 4]
        if scored:
            assert row["completion"] == max(scored, key=len)
        else:
            assert row["completion"] is None
            assert row["score"] is None
            assert "the score is" in row["unscored"]
    assert rows_of(job)[4]["unscored"] == "3 x the score is nan"
    assert outcome.unscored == sum(row["score"] is None for row in rows_of(job)) >= 1
    words = [(i, word(0, i, s)) for i in range(7) for s in range(3)]
    assert outcome.failures["the score is nan"] == sum(i == 4 or w == "never" for i, w in words)
    assert outcome.failures["the score is no number but None"] == sum(i != 4 and w == "no" for i, w in words)


def test_a_judge_is_asked_once_whatever_stops_it(prompts, tmp_path):
    calls = tmp_path / "calls"
    body = f"open({str(calls)!r}, 'a').write(answer + str(row['id']) + '\\n'); return len(answer)"
    job = job_of(prompts, n=3, judge=judge_of(tmp_path, body))
    with pytest.raises(KeyboardInterrupt):
        run(job, Table(fail_at=4))
    run(job)
    asked = calls.read_text().split()
    assert len(asked) == len(set(asked)) == len({word(0, i, s) + str(i) for i in range(7) for s in range(3)})


@pytest.mark.parametrize(("out", "message"), [("x.json", "must be a .jsonl file"), ("gone/x.jsonl", "no folder")])
def test_outputs_that_cannot_be(prompts, out, message):
    with pytest.raises(ConfigError, match=message):
        run(job_of(prompts, out))


def test_the_meter_shows_speed_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Meter(100, 1000, stream) as meter:
        now[0] = 5.0
        meter.add(10, 400)
        assert stream.getvalue() == ""  # not more often than every ten seconds
        now[0] = 20.0
        meter.add(50, 1600)
        assert stream.getvalue() == "answers: 160 of 1000 rows, 100 tokens/s, 0:04:40 left\n"


def test_the_meter_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Meter(0, 10, stream) as meter:
        meter.add(10, 1000)
    assert "10/10" in stream.getvalue()
    assert "tokens/s" in stream.getvalue()
