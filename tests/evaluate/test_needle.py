"""One sentence in a long text: lengths, depths, what counts as found, the grid."""

import math
import random
import re

import pytest
from fakes.replies import reply
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.grid import Grid
from jaxpo.evaluate.haystack import SLACK, Haystack, filler, most_words
from jaxpo.evaluate.outcome import Outcome, table
from jaxpo.evaluate.report.evaluation import evaluation_page
from jaxpo.evaluate.report.heat_map import heat_map
from jaxpo.evaluate.runner import TaskJob
from jaxpo.evaluate.tasks.base import Reader, cells
from jaxpo.evaluate.tasks.needle import Needle
from jaxpo.evaluate.tasks.registry import task_class
from jaxpo.sampling.text import encode_prompt


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([filler(4000, 0), "special magic number hidden 0 1 2 3 4 5 6 7 8 9"], 800)


@pytest.fixture(scope="module")
def reader(tokenizer):
    return Reader(tokenizer, 4096)


def asked(task, example, reader):
    (question,) = task.ask(example, reader).questions
    return question


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_a_prompt_and_its_answers_room_have_the_length_asked_for_in_the_models_tokens(reader, length, chat):
    task = Needle(lengths=(length,), depths=(0.0, 0.3, 1.0), tries=1, chat=chat)
    for example in task.examples():
        question = asked(task, example, reader)
        tokens = len(encode_prompt(reader.tokenizer, question.prompt)) + question.max_new_tokens
        assert length - SLACK - 6 <= tokens <= length


def test_the_needle_lies_where_it_should_and_once(reader):
    task = Needle(lengths=(2048,), depths=(0.0, 0.1, 0.5, 0.9, 1.0), tries=1)
    for example in task.examples():
        prompt = asked(task, example, reader).prompt
        text = prompt.split("\n\n")[1]
        assert text.count(example.sentence) == 1
        assert prompt.count(example.value) == 1
        before, after = text.split(example.sentence)
        found = len(before.split()) / (len(before.split()) + len(after.split()))
        assert abs(found - example.depth) <= 0.02
        # Between sentences; only the last is cut, by the length.
        assert example.depth in (0, 1) or before.strip().endswith(".")
        assert not re.search(r"\d", before + after)


def test_examples_are_a_function_of_the_seed(reader):
    def prompts(seed):
        task = Needle(lengths=(512,), depths=(0.5,), tries=3, seed=seed)
        return [asked(task, example, reader).prompt for example in task.examples()]

    assert prompts(0) == prompts(0) != prompts(1)
    assert len(set(prompts(0))) == 3


def test_a_text_of_ones_own_keeps_its_lines(tmp_path, reader):
    path = tmp_path / "book.txt"
    path.write_text("Chapter 1\n\n  " + filler(3000, 3).replace(". Her ", ".\n\nHer "))
    task = Needle(source=str(path), lengths=(1024,), depths=(0.5,), tries=2)
    first, second = (asked(task, example, reader).prompt for example in task.examples())
    assert "Chapter 1\n\n  " in first
    assert ".\n\nHer " in first
    numbers = [example.value for example in task.examples()]
    assert first != second
    assert first.count(numbers[0]) == 1


def test_a_text_that_is_too_short_and_lengths_that_are_too_long_are_refused(tmp_path, reader):
    path = tmp_path / "short.txt"
    path.write_text(filler(300, 0))
    task = Needle(source=str(path), lengths=(4096,), depths=(0.5,))
    with pytest.raises(DataError, match=r"short.txt: has \d+ tokens with its question and answer, too few for 4096"):
        task.ask(task.examples()[0], reader)
    task = Needle(lengths=(1024, 8192, 16384))
    with pytest.raises(ConfigError, match=r"8192, 16384 tokens, but the model has 4096 pos.*needle.lengths=1024"):
        task.ask(task.examples()[0], reader)
    task = Needle(lengths=(64,))
    with pytest.raises(ConfigError, match="64 tokens hold no text beside the question"):
        task.ask(task.examples()[0], reader)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    told = {"empty.txt": "is empty", "bytes.txt": "no text in UTF-8", "none.txt": "no such file", "": "UTF-8"}
    for name, words in told.items():
        with pytest.raises(DataError, match=words):
            Needle(source=str(tmp_path / name)).examples()


@pytest.mark.parametrize(("settings", "words"), [
    ({"lengths": ()}, "lengths: .* at least one"),
    ({"lengths": (1024, 1024)}, "each once"),
    ({"lengths": (40,)}, "40 must be more than max_new_tokens, 48"),
    ({"depths": (1.5,)}, "depths: 1.5 must be from 0 to 1"),
    ({"tries": 0}, "tries: 0 must be at least 1"),
    ({"max_new_tokens": 0}, "max_new_tokens: 0"),
])  # fmt: skip
def test_settings_that_are_wrong_are_named(settings, words):
    assert any(re.search(words, problem) for problem in Needle(**settings).problems())


@pytest.mark.parametrize(("answer", "found"), [
    (" {value}.", True), ("It is {commas}, I think.", True), ("{value} or 1234", True), ("**{value}**", True),
    ("", False), ("I do not know.", False), ("{value}0", False), ("1{value}", False), ("12 {value}", False), ("{half}",
     False),
])  # fmt: skip
def test_the_first_number_of_the_answer_must_be_the_needles(answer, found):
    task = Needle(lengths=(512,), depths=(0.5,), tries=1)
    (example,) = task.examples()
    said = answer.format(value=example.value, commas=f"{int(example.value):,}", half=example.value[:4])
    assert task.score(example, reply(said)).values == {"retrieved": float(found)}


def test_results_by_cell_and_the_grid():
    task = Needle(lengths=(512, 1024), depths=(0.0, 0.5), tries=2)
    examples = task.examples()
    # Found everywhere but in the middle of the longer text, there once.
    missed = next(e for e in examples if e.length == 1024 and e.depth == 0.5)
    scored = [task.score(e, reply("none" if e is missed else e.value)) for e in examples]
    results = {c.name: c.how.measure(c.values(scored), c.weights(scored)) for c in cells(scored, task.scores())}
    assert (results["retrieved"].value, results["retrieved"].n) == (7 / 8, 8)
    assert (results["retrieved_1024"].value, results["retrieved_512"].value) == (0.75, 1.0)
    assert results["retrieved_depth_0.5"].value == 0.75
    assert (results["retrieved_1024_depth_0.5"].value, results["retrieved_1024_depth_0.5"].n) == (0.5, 2)
    grid = task.grid(scored)
    assert grid.values == ((1.0, 1.0), (1.0, 0.5))
    assert grid.lines() == [
        "needles retrieved, by depth and length in tokens",
        "depth \\ length   512  1,024",
        "            0%  1.00   1.00",
        "           50%  1.00   0.50",
    ]


def test_cells_that_were_left_out_are_empty():
    task = Needle(lengths=(512, 1024), depths=(0.0, 1.0), tries=1, limit=2)
    scored = [task.score(example, reply(example.value)) for example in task.examples()]
    assert sorted(str(x) for row in task.grid(scored).values for x in row) == ["1.0", "1.0", "None", "None"]


def test_the_heat_map_is_drawn_in_the_pages_colours_and_fuller_where_more_was_found():
    svg = heat_map(Grid("t", "depth", ("0%", "100%"), "length", ("1k", "2k"), ((1.0, 0.5), (0.0, None))), "g")
    assert svg.startswith("<svg")
    assert "var(--series-0)" in svg
    assert "var(--text)" in svg
    assert "#0405" not in svg
    assert [label for label in ("1.00", "0.50", "0.00", "100%", "2k") if f">{label}</text>" not in svg] == []
    strengths = [float(x) for x in re.findall(r"fill: var\(--series-0\); opacity: ([\d.]+)", svg)]
    assert strengths == [0.75, pytest.approx(0.405), 0.06]  # nothing where nothing was measured
    assert svg == heat_map(Grid("t", "depth", ("0%", "100%"), "length", ("1k", "2k"), ((1.0, 0.5), (0.0, None))), "g")


@given(st.integers(0, 400), st.integers(1, 300), st.integers(0, 2**32))
def test_as_many_words_as_fit(length, words, seed):
    draw = random.Random(seed)
    sizes = [10]
    for _ in range(words):
        sizes.append(sizes[-1] + draw.choice([1, 1, 2, 7]))
    calls = []

    def size(n):
        calls.append(n)
        return sizes[n]

    found = most_words(length, words, size)
    if length < 10:
        assert found == -1
    else:
        assert sizes[found] <= length
        assert found == words or sizes[found] >= length - SLACK or sizes[found + 1] > length
    assert len(calls) <= 4 + 3 * math.log2(words + 1)


def test_the_filler_is_a_function_of_its_seed_and_long_enough():
    assert filler(500, 1) == filler(500, 1) != filler(500, 2)
    assert filler(500, 1).startswith(filler(100, 1))
    assert len(filler(500, 1).split()) >= 500


@pytest.mark.parametrize(("depth", "expected"), [
    (0, "N. A b. C d. E"), (1, "A b. C d. E N."), (0.5, "A b. N. C d. E"), (0.4, "A b. N. C d. E"),
])  # fmt: skip
def test_where_a_needle_goes(depth, expected):
    assert Haystack("A b. C d. E f.").hide("N.", depth, 5) == expected


def test_a_text_without_sentences_is_cut_at_words():
    assert Haystack("a b c d").hide("N.", 0.5, 4) == "a b N. c d"


def test_it_is_found_by_name():
    assert task_class("needle") is Needle


class Rememberer:
    """A model that repeats what it read in the last tokens of its prompt: deeper needles in long texts are lost."""

    def __init__(self, reader, window):
        self.reader, self.window, self.stop_ids = reader, window, ()

    def logps(self, sequences, progress):
        assert not sequences
        return []

    def rewards(self, segments, progress, sizes=None):
        assert not segments
        return []

    def searches(self, searches, progress):
        assert not searches
        return []

    def answers(self, requests, progress):
        for request in requests:
            seen = self.reader.tokenizer.decode(list(request.prompt)[-self.window :])
            (answers,) = reply((re.findall(r"is: (\d{7})", seen) or ["?"])[0]).answers
            yield list(answers)


def test_through_the_runner_to_the_table_and_the_page(reader):
    task = Needle(lengths=(512, 2048), depths=(0.0, 1.0), tries=1)
    (result,) = TaskJob("needle", task).read().ask(reader).run(Rememberer(reader, 1000), lambda *a: None)
    assert result.grid.values == ((1.0, 0.0), (1.0, 1.0))
    outcome = Outcome.of(result)
    assert outcome.record()["results"]["retrieved_2048_depth_0"]["value"] == 0
    told = table([outcome])
    assert told[-2:] == ["            0%  1.00   0.00", "          100%  1.00   1.00"]
    page = evaluation_page([outcome], "MODEL", None)
    assert page.count("<svg") == 1
    assert "needles retrieved, by depth and length" in page
    compared = evaluation_page([Outcome.of(result, result)], "MODEL", "OTHER")
    assert compared.count("<svg") == 2
    assert len(set(re.findall(r'id="(grid-[^"]*?)-figure_1"', compared))) == 2
