"""Mentalese: its grammar, what its traces come to, and the corpus of problems that are solved twice."""

import json
from fractions import Fraction

import pytest

from jaxpo.corpora.arithmetic import items
from jaxpo.corpora.mentalese import concluded, parse, trace_of
from jaxpo.corpora.mentalese_arithmetic import MentaleseArithmetic, may_be_unknown, problem_of
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.final_answer import grade


def test_a_trace_is_steps_whose_last_number_is_what_it_comes_to():
    text = "SET:a=7;CALC:a+5=12;CASE:12>10;EQ:x*2=12+a-7;SOLVE:x=6;ANS:x/4"
    steps = parse(text)
    assert ";".join(map(str, steps)) == text
    assert [step.op for step in steps] == ["SET", "CALC", "CASE", "EQ", "SOLVE", "ANS"]
    assert concluded(steps) == Fraction(3, 2)
    assert concluded(steps[:2]) == 12
    assert concluded(steps[:3]) == 12, "a case is no number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CALC:2+2=5", r"step 1 of a trace, 'CALC:2\+2=5': 2\+2 = 5 does not hold"),
        ("EQ:x+1=3;SOLVE:x=1", r"step 2 .*x\+1 = 3 does not hold"),
        ("CASE:3<2;ANS:1", r"3 < 2 does not hold"),
        ("CALC:a+1=2", "'a' is not known"),
        ("ANS:1/0", "divides by zero"),
        ("THINK:2+2=4", "begins with none of SET, EQ, CALC, SOLVE, CASE, ANS"),
        ("CALC:2+2", "CALC has two sides"),
        ("SET:2=3", "SET gives a number to a name of one letter"),
        ("CALC:2+=4", "'2\\+' is no expression"),
        ("CALC:__import__('os')=4", "has more than numbers"),
        ("CALC:2**9=4", "is no expression"),
        ("CASE:1=1", "comes to no answer"),
    ],
)
def test_what_is_no_trace_is_refused_by_its_step(text, message):
    with pytest.raises(DataError, match=message):
        concluded(parse(text))


def test_both_solutions_of_every_problem_are_right_and_one_is_several_times_shorter(tmp_path):
    report = MentaleseArithmetic(train=160, heldout=40).build(tmp_path)
    assert report["counts"] == {
        "mentalese_train": 160, "mentalese_heldout": 40, "verbose_train": 160, "verbose_heldout": 40,
    }  # fmt: skip
    read = lambda name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]  # noqa: E731
    unknown = 0
    for part in ("train", "heldout"):
        short, long = read(f"mentalese_{part}"), read(f"verbose_{part}")
        assert [row["prompt"] for row in short] == [row["prompt"] for row in long]
        for a, b in zip(short, long, strict=True):
            own, twin = (row["completion"][0]["content"] for row in (a, b))
            assert str(concluded(parse(trace_of(own)))) == a["answer"] == b["answer"]
            assert grade(own, float(a["answer"]))
            assert grade(twin, float(a["answer"]))
            unknown += "SOLVE" in own
            assert ("did" in a["prompt"][0]["content"]) == ("SOLVE" in own)
    assert 0 < unknown < 100
    assert report["characters"]["verbose"] > 6 * report["characters"]["mentalese"]
    assert not {row["id"] for row in read("mentalese_train")} & {row["id"] for row in read("mentalese_heldout")}
    assert MentaleseArithmetic(train=160, heldout=40).build(tmp_path)["reused"]


def test_the_question_after_the_start_is_solved_backwards():
    item = next(i for i in items(1, 60, seed=0, held_out=False) if may_be_unknown(i) and "+" in i.completion)
    forward, back = problem_of(item), problem_of(item, unknown=True)
    ((a, _, b, c),) = forward.steps
    assert back.answer == a
    assert back.mentalese == f"EQ:x+{b}={c};SOLVE:x={a}\n#### {a}"
    assert "some" in back.prompt
    assert f"we take {b} from {c} we have {a}" in back.verbose
    assert forward.mentalese == f"CALC:{a}+{b}={c}\n#### {c}"


def test_settings_that_make_no_corpus_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown_one_in=-1"):
        MentaleseArithmetic(unknown_one_in=-1).build(tmp_path)
    with pytest.raises(ConfigError, match=r"levels=\(9,\)"):
        MentaleseArithmetic(levels=(9,)).build(tmp_path)
