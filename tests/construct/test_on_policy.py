"""On-policy pairs: who is chosen, what is left out and counted, and that nothing is lost when a judge fails."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from construct.list_rows import rows
from construct.pairs_bench import FakeNetwork, made

from jaxpo.construct.on_policy.best_worst import Candidate, best_and_worst, without_repeats
from jaxpo.errors import ConfigError, DataError, RunError
from jaxpo.judges import FunctionJudge, Jury, RewardJudge, VerifierJudge
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.questions import read_questions
from jaxpo.judges.refine import FunctionRefiner

GIVEN, A, B = Candidate("given", "completion"), Candidate("aa", "sample 0"), Candidate("b", "sample 1", logp=-0.1)
ROW = {"prompt": "p", "completion": "long given answer"}


def function(folder, body, name="judge"):
    """A file with `f(prompt, answer, row)` in it; "file.py:f"."""
    path = folder / f"{name}.py"
    path.write_text("import math, os\ndef f(prompt, answer, row):\n" + textwrap.indent(textwrap.dedent(body), "    "))
    return f"{path}:f"


def texts(pairs):
    return [(p["chosen"], p["rejected"]) for p in pairs]


def records(folder, kind):
    (path,) = folder.glob(f"{kind}-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


@pytest.mark.parametrize(
    ("scores", "ties", "expected"),
    [
        ([2, 1, 3], "given", (2, 1)),
        ([1, 1, 0], "given", (0, 2)),
        ([1, 1, 0], "sample", (1, 2)),
        ([0, 0, 1], "given", (2, 1)),
        ([0, 1, 0], "sample", (1, 2)),
        ([1, 1, 0], "shortest", (1, 2)),
        ([0, 1, 0], "shortest", (1, 0)),
        ([1, 0, 0], "likely", (0, 2)),
        ([0, 1, 1], "likely", (2, 0)),
        ([4, 4, 4], "given", None),
    ],
)
def test_best_and_worst_and_what_decides_between_equals(scores, ties, expected):
    low = [Candidate(c.text, c.origin, c.logp or -1.0) for c in (GIVEN, A, B)]
    assert best_and_worst(low, scores, ties) == expected


def test_a_text_is_a_candidate_once_and_the_given_one_stays():
    repeated = [GIVEN, A, Candidate(" given\n", "sample 2"), B, Candidate("aa", "sample 3")]
    assert without_repeats(repeated) == [GIVEN, A, B]


def test_instruction_and_preference_rows(tmp_path):
    """The reward is the length; the given answer is the longest in the first row and the shortest in the second."""
    pairs, shop = made(
        [ROW, {"prompt": "question", "chosen": "yes", "rejected": "no"}, {"prompt": "only a prompt"}],
        RewardJudge(),
        tmp_path,
        samples=3,
        network=FakeNetwork(answer=lambda prompt, number, sample, seed: prompt + "x" * sample),
    )
    assert texts(pairs) == [(ROW["completion"], "p"), ("questionxx", "no"), ("only a promptxx", "only a prompt")]
    assert pairs[1]["scores"] == [10.0, 2.0]
    assert pairs[1]["margin"] == 8.0
    assert (pairs[1]["chosen_from"], pairs[1]["rejected_from"]) == ("sample 2", "rejected")
    assert pairs[1]["source"] == "rows.jsonl:2"
    expected = {"samples_drawn": 9, "candidates": 12, "chosen_sampled": 2, "chosen_given": 1, "rejected_given": 1}
    assert {name: shop.counts[name] for name in expected} == expected


def test_conversations_keep_their_form(tmp_path):
    user, turn = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "a long hello"}
    network = FakeNetwork(answer=lambda *_: "oh")
    for data in ({"messages": [user, turn]}, {"prompt": [user], "completion": [turn]}):
        pairs, _ = made([data], RewardJudge(), tmp_path, samples=1, network=network)
        assert pairs[0]["prompt"] == [user]
        assert pairs[0]["chosen"] == [turn]
        assert pairs[0]["rejected"] == [{"role": "assistant", "content": "oh"}]


def test_every_row_that_is_left_out_is_counted(tmp_path):
    answers = {"cut": "cut~", "empty": " ", "same": "given", "equal": "12345", "weak": "12", "near": "1234567"}
    data = [{"prompt": p, "completion": "given"} for p in (*answers, "x" * 390)]
    data.append({"prompt": "long", "completion": "y" * 300})
    network = FakeNetwork(answer=lambda prompt, *_: answers.get(prompt, "123456"))
    options = {"samples": 1, "max_new_tokens": 20, "max_length": 200, "min_score": 5.5, "min_margin": 2.0}
    pairs, shop = made(data, RewardJudge(), tmp_path, network=network, **options)
    assert texts(pairs) == [("1234567", "given")]
    assert {name: n for name, n in shop.counts.items() if n and ("left_out" in name or "samples_" in name)} == {
        "rows_left_out_prompt_too_long": 1,
        "samples_drawn": 7,
        "samples_empty": 1,
        "samples_unfinished": 1,
        "rows_left_out_one_candidate": 3,
        "rows_left_out_equal_scores": 1,
        "rows_left_out_min_score": 1,
        "rows_left_out_over_long": 1,
    }
    kept, _ = made(data, RewardJudge(), tmp_path, network=network, **options | {"min_score": None, "min_margin": 3.0})
    assert texts(kept) == [("given", "12")]


def test_ties_of_a_verifier(tmp_path):
    data = [{"prompt": "2+3?", "answer": 5, "completion": "#### 5"}]
    said = ["it is 5", "so 4", "4", "5"]
    network = FakeNetwork(answer=lambda p, q, s, seed: said[s])
    got = {
        ties: texts(made(data, VerifierJudge(), tmp_path, network=network, samples=4, ties=ties)[0])[0]
        for ties in ("given", "sample", "shortest", "likely")
    }
    # Of "likely": the fake network's log-prob per token is minus the mean character code.
    assert got == {
        "given": ("#### 5", "so 4"),
        "sample": ("it is 5", "so 4"),
        "shortest": ("5", "so 4"),
        "likely": ("#### 5", "4"),
    }
    with pytest.raises(DataError, match=r"rows.jsonl, row 2, field 'answer': column 'answer' holds no number"):
        made([*data, {"prompt": "1+1?", "completion": "2"}], VerifierJudge(), tmp_path)
    marked = [{"prompt": "2+3?", "completion": "2 + 3 = 5\n#### 5"}]
    pairs, _ = made(marked, VerifierJudge(), tmp_path, network=network, samples=4, ties="sample")
    assert texts(pairs) == [("it is 5", "so 4")]


def test_samples_alone_are_compared_where_given_answers_are_no_candidates(tmp_path):
    data = [{"prompt": f"{a}+3?", "answer": a + 3, "completion": f"#### {a + 3}"} for a in (2, 4)]
    network = FakeNetwork(answer=lambda p, q, s, seed: ("5", "4")[s])  # right and wrong, then twice wrong
    pairs, shop = made(data, VerifierJudge(), tmp_path, network=network, samples=2, given=False)
    assert texts(pairs) == [("5", "4")]
    assert shop.counts["rows_left_out_equal_scores"] == 1
    assert shop.counts["candidates"] == 4
    with pytest.raises(ConfigError, match="samples is 1 and given is False"):
        made(data, VerifierJudge(), tmp_path, samples=1, given=False)


def test_the_files_are_a_function_of_the_seed_and_not_of_the_pass_size(tmp_path):
    def answer(p, q, s, seed):
        return "z" * ((7 * q + 3 * s + seed) % 11 + 1)

    data = [{"prompt": f"p{i}", "completion": "given"} for i in range(7)]
    one, _ = made(data, RewardJudge(), tmp_path / "1", network=FakeNetwork(answer, rows_per_pass=1))
    all_, _ = made(data, RewardJudge(), tmp_path / "2", network=FakeNetwork(answer, rows_per_pass=7))
    other, _ = made(data, RewardJudge(), tmp_path / "1", network=FakeNetwork(answer, rows_per_pass=7), seed=1)
    assert one == all_ != other


def test_scores_that_are_no_numbers_are_kept_counted_and_asked_again(tmp_path):
    """One answer is NaN until a flag exists; one is None for ever. Their rows are left out, and said so."""
    flag = tmp_path / "flag"
    judge = FunctionJudge(
        function(
            tmp_path,
            f"""
            if answer == "p1-0" and not os.path.exists({str(flag)!r}): return math.nan
            return None if answer == "p2-1" else len(answer) + answer.count("1")
            """,
        )
    )
    data = [{"prompt": f"p{i}", "completion": "given"} for i in range(4)]
    pairs, first = made(data, judge, tmp_path / "parts", samples=2, tries=2)
    assert [p["prompt"] for p in pairs] == ["p0", "p3"]
    assert first.counts["rows_left_out_judge_failed"] == 2
    assert (first.counts["score_asked"], first.counts["score_failed_asks"]) == (14, 4)
    assert dict(first.failures) == {"the score is nan": 1, "the score is no number but None": 1}
    kept = records(tmp_path / "parts", "scores-function")
    assert sum("failed" in r for r in kept) == 4
    assert sum("value" in r for r in kept) == 10

    flag.touch()
    pairs, again = made(data, judge, tmp_path / "parts", samples=2, tries=2)
    assert [p["prompt"] for p in pairs] == ["p0", "p1", "p3"]
    assert (again.counts["score_asked"], again.counts["score_failed_asks"]) == (3, 2)
    assert again.network.drawn == []
    assert any("4 of 4 prompts have theirs" in line for line in again.said)


def test_a_judge_that_raises_half_way(tmp_path):
    calls = tmp_path / "calls"
    body = f"""
    with open({str(calls)!r}, "a") as file: file.write(answer + "\\n")
    if "p2" in answer: raise ValueError("no idea")
    return len(answer)
    """
    data = [{"prompt": f"p{i}", "completion": f"given {i}"} for i in range(4)]
    pairs, shop = made(data, FunctionJudge(function(tmp_path, body)), tmp_path / "parts", samples=2, tries=3)
    assert [p["prompt"] for p in pairs] == ["p0", "p1", "p3"]
    assert dict(shop.failures) == {"ValueError: no idea": 2}
    asked = calls.read_text().splitlines()
    assert len(asked) == 12 + 2 * 2  # the two failures were asked three times, the rest once


def test_a_judge_that_always_fails_stops_the_run_with_its_reason(tmp_path):
    data = [{"prompt": f"p{i}", "completion": f"given {i}"} for i in range(40)]
    judge = FunctionJudge(function(tmp_path, "return 1 / 0"))
    with pytest.raises(RunError, match=r"score: 5\d failures in a row, the last: ZeroDivisionError: division"):
        made(data, judge, tmp_path / "parts", samples=2)
    assert len(records(tmp_path / "parts", "scores-function")) == 56


def test_a_stop_between_batches_loses_nothing(tmp_path):
    """Interrupted after every piece in turn, the parts come to the same pairs, and nothing is drawn or judged twice."""
    data = [{"prompt": f"p{i}", "completion": f"given {i}"} for i in range(5)]
    calls = tmp_path / "calls"
    body = f"""
    with open({str(calls)!r}, "a") as file: file.write(answer + "\\n")
    return len(answer) + ord(answer[-1]) / 100
    """
    judge = FunctionJudge(function(tmp_path, body))
    expected, _ = made(data, judge, tmp_path / "whole", samples=3)
    calls.unlink()

    class Stopped(Exception):
        pass

    network, pairs = FakeNetwork(), None
    starts = 0
    while pairs is None:
        starts += 1
        checks = []

        def check(checks=checks):
            checks.append(None)
            if len(checks) == 2:
                raise Stopped

        try:
            pairs, _ = made(data, judge, tmp_path / "parts", samples=3, network=network, check=check)
        except Stopped:
            assert starts < 20
    assert starts > 3
    assert pairs == expected
    assert sorted(network.drawn) == list(range(5))
    asked = calls.read_text().splitlines()
    assert len(asked) == len(set(asked)) == 20


KILLED = """
import os, signal, sys
from pathlib import Path
from construct.pairs_bench import made
from jaxpo.judges import FunctionJudge
data = [{"prompt": f"p{i}", "completion": f"given {i}"} for i in range(12)]
pairs, _ = made(data, FunctionJudge(sys.argv[1]), Path(sys.argv[2]), samples=2)
print(len(pairs))
"""


def test_a_process_that_is_killed_loses_no_score_that_was_written(tmp_path):
    """The judge kills its own process (SIGKILL) at its 20th answer; the test leaves a line torn."""
    calls = tmp_path / "calls"
    judge = function(
        tmp_path,
        f"""
        with open({str(calls)!r}, "a") as file: file.write(answer + "\\n")
        if len(open({str(calls)!r}).readlines()) == 20: os.kill(os.getpid(), 9)
        return len(answer) + ord(answer[-1]) / 100
        """,
    )
    command = [sys.executable, "-c", KILLED, judge, str(tmp_path / "parts")]
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))}
    first = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert first.returncode == -signal.SIGKILL, first.stderr
    (path,) = (tmp_path / "parts").glob("scores-*.jsonl")
    assert len(path.read_text().splitlines()) == 1 + 16
    with path.open("a") as file:
        file.write('{"key": "torn')
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (again.returncode, again.stdout) == (0, "12\n"), again.stderr
    asked = calls.read_text().splitlines()
    assert len(asked) == 36 + 4  # of two batches of eight nothing was lost, of the third the four that were under way
    assert "torn" not in path.read_text()


def test_a_ledger_with_a_broken_line_is_named(tmp_path):
    ledger = Ledger(tmp_path, "scores", {"a": 1})
    ledger.append([{"key": "x", "value": 1.0}])
    assert ledger.read() == [{"key": "x", "value": 1.0}]
    assert Ledger(tmp_path, "scores", {"a": 2}).read() == []
    with ledger.path.open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(DataError, match=r"scores-\w+\.jsonl, row 3: is not as it was written. Remove the line"):
        ledger.read()


def test_a_jury_is_the_weighted_mean_and_needs_everyone(tmp_path):
    long = FunctionJudge(function(tmp_path, "return len(answer)", "long"))
    picky = FunctionJudge(
        function(tmp_path, "return math.inf if answer == 'p1-1' else -4.0 * answer.count('1')", "picky")
    )
    data = [{"prompt": f"p{i}", "completion": "given"} for i in range(3)]
    pairs, shop = made(data, Jury((long, picky), (3.0, 1.0)), tmp_path / "parts", samples=2)
    assert texts(pairs) == [("given", "p0-1"), ("given", "p2-1")]
    assert pairs[0]["scores"] == [5 * 0.75, 4 * 0.75 - 4 * 0.25]
    assert dict(shop.failures) == {"the score is inf": 1}
    assert len(list((tmp_path / "parts").glob("scores-*"))) == 2
    for jury, said in (
        (Jury(), "a jury has 0 judges"),
        (Jury((long,), (1.0, 2.0)), "give one share per judge"),
        (Jury((long,), (0.0,)), "one must be positive"),
    ):
        with pytest.raises(ConfigError, match=said):
            jury.check([])


def test_the_chosen_answer_of_instruction_data_is_refined_and_judged_again(tmp_path):
    """Rows: improved; made worse; left as it is; the refiner fails; a preference row, which is not refined."""
    refine = function(
        tmp_path,
        """
        if prompt == "fails": raise OSError("gone")
        return {"better": answer + "!!", "worse": "w", "kept": answer + " "}[prompt]
        """,
        "refine",
    )
    data = [{"prompt": p, "completion": "a given answer"} for p in ("better", "worse", "kept", "fails")]
    data.append({"prompt": "pair", "chosen": "a longer answer", "rejected": "n"})
    options = {"samples": 1, "refiner": FunctionRefiner(refine)}
    pairs, shop = made(data, RewardJudge(), tmp_path / "parts", **options)
    assert [p["chosen"] for p in pairs] == ["a given answer!!", "a given answer", "a given answer", "a longer answer"]
    assert pairs[0]["chosen_from"] == "completion, refined"
    assert pairs[0]["scores"] == [16.0, 8.0]
    counted = {name: n for name, n in shop.counts.items() if "refine" in name}
    assert counted == {
        "refinement_asked": 6,
        "refinement_failed_asks": 3,
        "score_of_refined_asked": 2,
        "score_of_refined_failed_asks": 0,
        "refinements_used": 1,
        "refinements_worse": 1,
        "refinements_unchanged": 1,
        "rows_left_out_refinement_failed": 1,
    }
    assert dict(shop.failures) == {"OSError: gone": 1}
    blind, _ = made(data, RewardJudge(), tmp_path / "parts", **options, rescore=False)
    assert [p["chosen"] for p in blind][1] == "w"
    assert blind[0]["scores"] == [14.0, 8.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": "t"}, "row 1: rows of type 'text' give no prompt with one or two answers."),
        ({**ROW, "tools": ["t"]}, "row 1, field 'tools': answers to prompts with tools are not sampled."),
        ({"messages": [{"role": "user", "content": "q"}]}, "field 'messages': the conversation does not end"),
    ],
)
def test_rows_that_cannot_be_used(data, message):
    with pytest.raises(DataError) as error:
        read_questions(rows(data))
    assert message in str(error.value)


def test_options_out_of_range_and_functions_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError) as error:
        made([ROW], RewardJudge(), tmp_path, samples=-1, temperature=0.0, tries=0)
    assert len(error.value.problems) == 3
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for name, said in (
        ("nothing", "must be module:function or file.py:function"),
        ("no.such.module:f", "the module 'no.such.module' cannot be imported"),
        ("math:nothing", "math has no function 'nothing'"),
        (f"{tmp_path}/gone.py:f", "there is no such Python file"),
        (f"{tmp_path}/broken.py:f", "cannot be loaded: ZeroDivisionError"),
    ):
        with pytest.raises(ConfigError, match=said):
            made([ROW], FunctionJudge(name), tmp_path)
