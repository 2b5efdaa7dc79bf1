"""The prompts file, strict and loose, and the numbers of both levels."""

import json
import sys

import pytest
from fakes.replies import reply

from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.ifeval import languages
from jaxpo.evaluate.ifeval.kinds import KINDS
from jaxpo.evaluate.ifeval.prompts import read_prompts
from jaxpo.evaluate.ifeval.score import Instruction, follow, variants
from jaxpo.evaluate.tasks.base import cells
from jaxpo.evaluate.tasks.ifeval import IFEval
from jaxpo.evaluate.tasks.registry import task_class

NO_COMMA = {"key": 1, "prompt": "Go on.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
TWO = {
    "key": 2,
    "prompt": "Title, and three words.",
    "instruction_id_list": ["detectable_format:title", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 3}],
}


def written(tmp_path, *rows):
    path = tmp_path / "input_data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_in_the_published_form(tmp_path):
    # The Hub's copy gives every object every key.
    nulls = {**NO_COMMA, "kwargs": [{"num_words": None, "relation": None}]}
    first, second, third = read_prompts("ifeval", str(written(tmp_path, NO_COMMA, TWO, nulls)))
    assert (first.prompt, [one.id for one in first.instructions]) == ("Go on.", ["punctuation:no_comma"])
    assert second.instructions[1].arguments == {"relation": "at least", "num_words": 3}
    assert third.instructions == first.instructions
    assert second.where.endswith("input_data.jsonl, row 2")


def test_every_kind_can_be_read(tmp_path):
    values = {
        "number": 1, "position": 1, "text": "word", "texts": ["a", "b"],
     "relation": "less than", "character": "#", "language": "fr",
    }  # fmt: skip
    kwargs = [{name: values[read.__name__] for name, read in kind.arguments.items()} for kind in KINDS.values()]
    row = {"prompt": "All.", "instruction_id_list": list(KINDS), "kwargs": kwargs}
    (read,) = read_prompts("ifeval", str(written(tmp_path, row)))
    assert [one.id for one in read.instructions] == list(KINDS)
    assert len(follow("word #1", read.instructions).strict) == 25


@pytest.mark.parametrize(("change", "words"), [
    ({"instruction_id_list": ["punctuation:no_commas"]},
     "row 1, field 'kwargs\\[0\\]'.*Did you mean punctuation:no_comma"),
    ({"instruction_id_list": ["count:numbers"]}, "unknown instruction 'count:numbers'"),
    ({"kwargs": []}, "field 'kwargs': has 0 entries for 1 instructions"),
    ({"kwargs": [{"num_words": 3}]}, "'num_words' is no argument of punctuation:no_comma, which takes no arguments"),
    ({"kwargs": [3]}, "must be an object, found int"),
    ({"kwargs": "x"}, "field 'kwargs': must be a list"),
    ({"instruction_id_list": [3]}, "field 'instruction_id_list\\[0\\]': must be a text"),
    ({"instruction_id_list": [], "kwargs": []}, "names no instruction"),
    ({"prompt": 3}, "field 'prompt': must be a text"),
    ({"prompt": None}, "column 'prompt' is missing"),
])  # fmt: skip
def test_rows_that_cannot_be_used_are_named(tmp_path, change, words):
    path = written(tmp_path, {**NO_COMMA, **change})
    with pytest.raises(DataError, match=words) as error:
        IFEval(source=str(path)).examples()
    assert error.value.file == path
    assert error.value.row == 1


@pytest.mark.parametrize(("id", "kwargs", "words"), [
    ("length_constraints:number_words", {"num_words": 3}, "needs the argument 'relation'"),
    ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}, "'3': must be a whole number"),
    ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "0 or more"),
    ("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"}, "whole number"),
    ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "whole number"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "around"},
     "must be one of 'less than', 'at least'"),
    ("keywords:existence", {"keywords": "a"}, "must be a list of texts"),
    ("keywords:existence", {"keywords": ["a", ""]}, "must be a text that is not blank"),
    ("keywords:existence", {"keywords": []}, "must be a list of texts"),
    ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
     "must be one character"),
    ("language:response_language", {"language": "xx"}, "must be one of af, ar"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}, "paragraph 3 of 2 cannot be"),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}, "must be 1 or more"),
])  # fmt: skip
def test_arguments_that_cannot_be_are_named(tmp_path, id, kwargs, words):
    path = written(tmp_path, NO_COMMA, {"prompt": "p", "instruction_id_list": [id], "kwargs": [kwargs]})
    with pytest.raises(DataError, match=words) as error:
        read_prompts("ifeval", str(path))
    assert error.value.row == 2
    assert error.value.field.startswith("kwargs[0]")


def test_an_absent_file_is_told_with_what_it_should_be(tmp_path):
    with pytest.raises(DataError, match=r"no such file.*input_data.jsonl of google-research"):
        IFEval(source=str(tmp_path / "none.jsonl")).examples()
    assert "needs the prompts as published" in next(IFEval().problems())


def test_variants_are_the_eight_of_the_paper():
    assert variants("*a*\nb\n*c*") == ["*a*\nb\n*c*", "b\n*c*", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb"]
    assert variants("one line") == ["one line", ""]
    assert variants("") == [""]


@pytest.mark.parametrize(("answer", "strict", "loose"), [
    ("fine", True, True),
    ("Sure, here it is:\nfine", False, True),
    ("fine\nHope this helps, bye", False, True),
    ("Sure,\nfine\nHope, bye", False, True),
    ("Sure,\nnot, fine\nHope, bye", False, False),
    ("no, comma", False, False),
    ("", False, False),
    ("\n\n", False, False),
])  # fmt: skip
def test_strict_and_loose(answer, strict, loose):
    found = follow(answer, [Instruction("x", KINDS["punctuation:no_comma"].check)])
    assert (found.strict, found.loose) == ((strict,), (loose,))


def test_asterisks_are_left_out_in_the_loose_reading():
    found = follow("**The end.**", [Instruction("x", KINDS["startend:end_checker"].check, {"end_phrase": "the end."})])
    assert (found.strict, found.loose) == ((False,), (True,))


def test_each_instruction_may_choose_its_variant():
    short = Instruction("a", KINDS["length_constraints:number_words"].check, {"num_words": 2, "relation": "less than"})
    greeting = Instruction("b", KINDS["keywords:existence"].check, {"keywords": ("sure",)})
    found = follow("Sure, here:\nfine", [short, greeting])
    assert (found.strict, found.loose) == ((False, True), (True, True))


def test_prompt_level_and_instruction_level(tmp_path):
    task = IFEval(source=str(written(tmp_path, NO_COMMA, TWO)))
    examples = task.examples()
    scored = [
        task.score(examples[0], reply("Sure, hi\nno comma")),
        task.score(examples[1], reply("<<title>> words")),
    ]
    results = {
        cell.name: cell.how.measure(cell.values(scored), cell.weights(scored)) for cell in cells(scored, task.scores())
    }
    values = {name: found.value for name, found in results.items()}
    assert values == {
        "prompt_level_strict_acc": 0, "inst_level_strict_acc": pytest.approx(1 / 3),
        "prompt_level_loose_acc": 0.5, "inst_level_loose_acc": pytest.approx(2 / 3),
        "strict_punctuation:no_comma": 0, "strict_detectable_format:title": 1,
        "strict_length_constraints:number_words": 0,
    }  # fmt: skip
    assert results["prompt_level_strict_acc"].n == 2
    assert "number_words(num_words=3, relation='at least'): not followed" in scored[1].expected
    assert scored[0].expected == "punctuation:no_comma: loosely"


def test_several_samples(tmp_path):
    task = IFEval(source=str(written(tmp_path, TWO)), samples=2, temperature=1.0, k=(2,))
    values = task.score(task.examples()[0], reply("<<a>> b c", "nothing")).values
    assert values["prompt_level_strict_acc"] == 0.5
    assert values["prompt_level_strict_acc_pass@2"] == 1
    assert values["inst_level_strict_acc"] == 1.0
    assert set(values) <= set(task.scores())


def test_a_file_that_asks_for_a_language_needs_the_detector_before_the_model(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    languages._detector.cache_clear()
    row = {"prompt": "p", "instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]}
    with pytest.raises(ConfigError, match=r"pip install 'jaxpo\[eval\]'"):
        IFEval(source=str(written(tmp_path, row))).examples()
    assert IFEval(source=str(written(tmp_path, NO_COMMA))).examples()
    languages._detector.cache_clear()


def test_prompts_and_their_template(tmp_path):
    path = str(written(tmp_path, NO_COMMA))
    chat, text = IFEval(source=path), IFEval(source=path, chat=False)
    (example,) = chat.examples()
    assert chat.prompt(example) == [{"role": "user", "content": "Go on."}]
    assert chat.in_template
    assert text.prompt(example) == "Go on."
    assert not text.in_template
    assert task_class("ifeval") is IFEval


@pytest.mark.parametrize(("text", "followed"), [
    ("<think>commas, many</think>none", 1), ("a</think>b, c</think>none", 1), ("none</think>a, b", 0), ("none", 0),
])  # fmt: skip
def test_what_a_model_thinks_first_can_be_left_out(tmp_path, text, followed):
    task = IFEval(source=str(written(tmp_path, NO_COMMA)), after="</think>")
    assert task.score(task.examples()[0], reply(text)).values["prompt_level_strict_acc"] == followed
