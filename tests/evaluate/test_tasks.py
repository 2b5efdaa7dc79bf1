"""Every task on replies that are made by hand, its numbers by float64 numpy; and what is wrong with files."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from jaxpo.data.tokens.examples import Segment
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.maths import marked, verifier
from jaxpo.evaluate.pass_at_k import pass_at_k
from jaxpo.evaluate.results import worst
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored, measure
from jaxpo.evaluate.tasks.exact_match import ExactMatch
from jaxpo.evaluate.tasks.gsm8k import GSM8K, standard_shots
from jaxpo.evaluate.tasks.multiple_choice import MultipleChoice
from jaxpo.evaluate.tasks.ranking import Ranking
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.evaluate.tasks.registry import TASKS, task_class
from jaxpo.evaluate.tasks.text import BitsPerByte, Perplexity
from jaxpo.sampling.request import Generation


def answered(*texts):
    """A reply whose only question has these answers."""
    none = np.zeros(0, np.float32)
    return Reply(answers=(tuple(Generation(0, i, [], none, none, none, "stop_id", t) for i, t in enumerate(texts)),))


def scored_by_noise(task, reader, seed=0):
    """Asks and replies of a task's examples, the log-probs drawn."""
    generator = np.random.Generator(np.random.Philox(seed))
    replies = []
    for example in task.examples():
        ask = task.ask(example, reader)
        logps = [-generator.exponential(2.0, len(s.tokens)).astype(np.float32) for s in ask.segments]
        for x in logps:
            x[0] = 0.0
        replies.append((example, Reply(ask, tuple(logps))))
    return replies


@pytest.fixture(scope="module")
def reader(tokenizer):
    return Reader(tokenizer, 256)


def test_multiple_choice_by_three_rules(files, reader, tokenizer):
    task = MultipleChoice(source=str(files / "choices.jsonl"))
    hits = {"acc": [], "acc_token": [], "acc_bytes": []}
    scored = []
    for example, reply in scored_by_noise(task, reader):
        prompt = [tokenizer.bos_id, *tokenizer.encode(f"Question: {example.question}\nAnswer:")]
        total, tokens = [], []
        for choice, segment, logps in zip(example.choices, reply.ask.segments, reply.logps, strict=True):
            whole = tokenizer.encode(f"Question: {example.question}\nAnswer: {choice}")
            assert segment.tokens.tolist() == [tokenizer.bos_id, *whole]
            own = logps.astype(np.float64)[len(prompt) :]
            total.append(own.sum())
            tokens.append(len(own))
        sizes = [len(choice.encode()) for choice in example.choices]
        hits["acc"].append(np.argmax(total) == example.right)
        hits["acc_token"].append(np.argmax(np.divide(total, tokens)) == example.right)
        hits["acc_bytes"].append(np.argmax(np.divide(total, sizes)) == example.right)
        scored.append(task.score(example, reply))
        assert scored[-1].worst == pytest.approx(max(np.delete(total, example.right)) - total[example.right])
    found = measure(scored, task.scores())
    assert {name: m.value for name, m in found.items()} == {name: np.mean(x) for name, x in hits.items()}
    assert all(m.n == 4 and m.low <= m.value <= m.high for m in found.values())


def test_the_rules_of_multiple_choice_can_disagree():
    """log p: -3 of one token and byte, -4 of four tokens and two bytes, -5 of two tokens and eight bytes."""
    task = MultipleChoice(source="x")
    row = type("Row", (), {"file": "x", "number": 1})()
    from jaxpo.evaluate.tasks.multiple_choice import Choice

    example = Choice(row, "?", ("a", "bb", "cccccccc"), 0)
    segments, logps = [], []
    for total, tokens in ((-3, 1), (-4, 4), (-5, 2)):
        segments.append(Segment(np.zeros(1 + tokens, np.int32), np.arange(1 + tokens) > 0))
        logps.append(np.asarray([0.0, *[total / tokens] * tokens], np.float32))
    values = [
        dict(
            task.score(
                type(example)(row, "?", example.choices, right), Reply(Ask(tuple(segments)), tuple(logps))
            ).values
        )
        for right in range(3)
    ]
    assert [v["acc"] for v in values] == [1, 0, 0]
    assert [v["acc_token"] for v in values] == [0, 1, 0]
    assert [v["acc_bytes"] for v in values] == [0, 0, 1]


def test_perplexity_and_bits_predict_every_token_once(files, reader, tokenizer):
    source = str(files / "texts.jsonl")
    perplexity, size = Perplexity(source=source, max_length=16), BitsPerByte(source=source, max_length=16)
    replies = scored_by_noise(perplexity, reader)
    costs, tokens, texts = [], [], []
    for example, reply in replies:
        text = example.data["text"]
        whole = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        joined = [*reply.ask.segments[0].tokens, *(t for s in reply.ask.segments[1:] for t in s.tokens[1:])]
        assert joined == whole
        costs.append(-sum(x.astype(np.float64).sum() for x in reply.logps))
        tokens.append(len(whole) - 1)
        texts.append(text)
    assert len(replies[0][1].ask.segments) > 1
    found = measure([perplexity.score(*pair) for pair in replies], perplexity.scores())["perplexity"]
    assert found.value == pytest.approx(math.exp(sum(costs) / sum(tokens)))
    assert found.low < found.value < found.high
    bits = measure([size.score(*pair) for pair in replies], size.scores())["bits_per_byte"]
    assert bits.value == pytest.approx(sum(costs) / math.log(2) / sum(len(t.encode()) for t in texts))
    assert (found.n, bits.n) == (4, 4)


def test_one_document_has_no_interval(files, reader):
    task = Perplexity(source=str(files / "texts.jsonl"), limit=1)
    (pair,) = scored_by_noise(task, reader)
    found = measure([task.score(*pair)], task.scores())["perplexity"]
    assert (found.n, found.low, found.high) == (1, None, None)


def test_ranking_with_and_without_the_prompt(files, reader):
    task = Ranking(source=str(files / "pairs.jsonl"))
    scored, expected = [], {name: [] for name in task.scores()}
    for example, reply in scored_by_noise(task, reader, seed=3):
        scored.append(task.score(example, reply))
        of = [
            (x.astype(np.float64)[s.supervised].sum(), s.supervised.sum())
            for x, s in zip(reply.logps, reply.ask.segments, strict=True)
        ]
        (chosen, n), (rejected, m), (bare, k), (other, o) = of
        expected["accuracy"].append(chosen / n > rejected / m)
        expected["accuracy_sum"].append(chosen > rejected)
        expected["accuracy_no_prompt"].append(bare / k > other / o)
        expected["accuracy_shorter_wins"].append(n < m)
    found = measure(scored, task.scores())
    assert {name: m.value for name, m in found.items()} == {name: np.mean(x) for name, x in expected.items()}
    assert found["accuracy_shorter_wins"].value == 1


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("3 + 15 = 18\n#### 18", True, True),
        ("So the answer is 18.", True, True),
        ("The final answer is: 18", True, True),
        ("#### 18.0", True, True),
        ("#### $18", True, True),
        ("The answer is 36/2.", True, True),
        ("She has 18 apples", False, True),
        (r"Hence \boxed{18}", False, True),
        ("#### 17\nor perhaps 18", False, False),
        ("#### 17\n#### 18", True, True),
        ("The answer is 18. Question: 20?", True, True),
        ("17", False, False),
        ("no idea", False, False),
        ("", False, False),
    ],
)
def test_strict_and_flexible_answers(text, strict, flexible):
    check = verifier("gsm8k")
    assert (check.strict("18", text), check.flexible("18", text)) == (strict, flexible)


def test_marked_answers_keep_their_decimals():
    assert marked("The answer is 3.5. Next") == "3.5"
    assert marked("#### 1,234") == "1,234"
    assert marked("nothing") is None
    assert verifier("gsm8k").strict("1234", "#### 1,234")


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxpo\[eval\]'"):
        GSM8K(source="x").examples()


def test_gsm8k_puts_solved_examples_first(files, reader):
    task = GSM8K(source=str(files / "maths.jsonl"), shots=2, shots_file=str(files / "maths.jsonl"))
    row = task.examples()[3]
    ask = task.ask(row, reader)
    prompt = ask.questions[0].prompt
    assert prompt.count("Question: ") == 3
    assert prompt.startswith("Question: Ann has")
    assert "\n#### 8\n\nQuestion: Ein Satz" in prompt
    assert prompt.endswith("\nAnswer:")
    assert ask.questions[0].stop == ("Question:",)
    scored = task.score(row, answered("It is 10. #### 10"))
    assert (scored.values, scored.expected) == ({"strict": 1.0, "flexible": 1.0}, "10")
    chat = GSM8K(source=task.source, shots=0, chat=True)
    assert chat.prompt(row) == [{"role": "user", "content": f"Question: {row.data['question']}\nAnswer:"}]
    assert (chat.stop, chat.in_template, task.in_template) == ((), True, False)
    assert len({task.format, chat.format, GSM8K(source=task.source, shots=1, shots_file=task.shots_file).format}) == 3


def test_the_standard_shots_answer_as_the_prompt_of_wei_et_al_does():
    shots = standard_shots("gsm8k")
    assert len(shots) == 8
    assert [marked(answer) for _, answer in shots] == ["6", "5", "39", "8", "9", "29", "33", "8"]


def test_exact_match_per_level(files):
    task = ExactMatch(source=str(files / "numbers.jsonl"))
    scored = [task.score(record, answered("#### 0")) for record in task.examples()]
    found = measure(scored, task.scores())
    assert {name: (m.value, m.n) for name, m in found.items()} == {
        "exact_match": (0.25, 4),
        "exact_match_level_0": (0.5, 2),
        "exact_match_level_1": (0.0, 2),
    }


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations(range(n), k))
            share = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)
    for wrong in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="pass@k needs"):
            pass_at_k(*wrong)


def test_samples_give_pass_at_k(files):
    task = ExactMatch(source=str(files / "numbers.jsonl"), samples=4, k=(1, 2), temperature=1.0)
    assert not list(task.problems())
    first = task.examples()[0]
    question = task.ask(first, Reader(None, 256)).questions[0]
    assert (question.n, question.sampler.temperature) == (4, 1.0)
    scored = task.score(first, answered("0", "1", "2", "3"))
    assert scored.values == pytest.approx({"exact_match": 0.25, "exact_match_pass@1": 0.25, "exact_match_pass@2": 0.5})
    assert not task.scores()["exact_match"].binary


def test_groups_are_measured_in_their_natural_order():
    scored = [Scored({"hit": float(n == 8)}, groups=(f"length_{n}",)) for n in (1024, 8, 64)]
    found = measure(scored, {"hit": Score("", binary=True)})
    assert list(found) == ["hit", "hit_length_8", "hit_length_64", "hit_length_1024"]
    assert [m.n for m in found.values()] == [3, 1, 1, 1]


def test_the_worst_come_first():
    low = {"loss": Score("", higher=False)}
    assert worst([Scored({"loss": x}) for x in (1.0, 3.0, 2.0)], low, 2) == [1, 2]
    assert worst([Scored({"loss": x}, {"loss": w}) for x, w in ((4.0, 4.0), (3.0, 1.0))], low, 1) == [1]
    assert worst([Scored({"acc": 1.0}, worst=x) for x in (0.0, 5.0)], {"acc": Score("")}, 1) == [1]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (MultipleChoice, [{"question": "a", "choice": ["b"], "answer": 0}], "field 'choices': column.*missing.*choice"),
        (MultipleChoice, [{"question": "a", "choices": ["b"], "answer": 0}], "field 'choices': must be a list of at"),
        (MultipleChoice, [{"question": "a", "choices": ["b", "c"], "answer": 2}], "row 1, field 'answer': is 2"),
        (MultipleChoice, [{"question": "a", "choices": ["b", "c"], "answer": "b"}], "field 'answer': is 'b'"),
        (MultipleChoice, [{"question": 3, "choices": ["b", "c"], "answer": 1}], "field 'question': must be a text"),
        (MultipleChoice, [], "holds no rows"),
        (GSM8K, [{"question": "a", "answer": "#### 3"}, {"question": "b", "answer": "#### what"}], "row 2, field 'ans"),
        (GSM8K, [{"question": " ", "answer": "#### 3"}], "field 'question': is empty"),
        (Ranking, [{"prompt": "a", "chosen": "b"}], "row 1"),
        (Perplexity, [{"txt": "a"}], "field 'text': column 'text' is missing.*Did you mean txt"),
        (ExactMatch, [{"prompt": "a", "completion": "b"}], "holds no number"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_named(task, rows, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=rf"(?s)rows\.jsonl.*{message}"):
        task(source=str(path)).examples()


@pytest.mark.parametrize("name", list(TASKS))
def test_a_file_that_is_not_there_is_named_with_its_format(name, tmp_path):
    cls = task_class(name)
    if not cls.NEEDS or cls.OPTIONAL or cls.SOURCE != "FILE":
        pytest.skip("takes no file, or none that must be given")
    with pytest.raises((DataError, ConfigError), match="no such file"):
        cls(source=str(tmp_path / "absent.jsonl")).examples()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (MultipleChoice(), "multiple_choice: needs rows with `question`"),
        (MultipleChoice(source="x", wording="none"), r"wording: 'none' must hold \{question\}"),
        (MultipleChoice(source="x", shots=2), "give both, or neither"),
        (MultipleChoice(source="x", limit=0), "limit: 0 must be at least 1"),
        (GSM8K(source="x", samples=3), "3 greedy answers are all the same"),
        (GSM8K(source="x", k=(2,)), "pass@2 needs 1 <= k <= samples, which is 1"),
        (GSM8K(source="x", max_new_tokens=0), "max_new_tokens: 0"),
        (Perplexity(source="x", max_length=1), "max_length: 1 must be at least 2"),
    ],
)
def test_settings_out_of_range_are_named(task, message):
    import re

    assert any(re.search(message, problem) for problem in task.problems())


def test_an_unknown_task_has_near_misses():
    with pytest.raises(ConfigError, match=r"no task 'perplexty'\. Did you mean perplexity"):
        task_class("perplexty")
