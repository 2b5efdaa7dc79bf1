"""Labels of questions for R^3: by a judge, by examples, at random; what they are refused for."""

import json
import math
from pathlib import Path

import pytest

from jaxpo.construct.base import Tools
from jaxpo.construct.query_types import R3, WordClassifier
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.online.rewards.r3 import R3Reward

HERE = Path(__file__)
PROMPTS = ["What is the capital of France?", "How many legs has a cat?", "Write a story about rain.", "Tell a story."]
KINDS = ["constrained", "constrained", "open", "open"]


def rows(**more):
    return [Row(HERE, i, {"prompt": p, "completion": "x", **more}) for i, p in enumerate(PROMPTS, start=1)]


def asks_what(prompt, answer, row):
    if "France" in prompt and row.get("fails"):
        raise ValueError("no idea")
    return float("?" in prompt)


def labelled(construction, data=None, seed=0):
    tools = Tools(seed=seed, say=lambda line: None)
    found = list(construction.run(rows() if data is None else data, tools))
    return [row["query_type"] for row in found], found, tools.counts


def test_a_judge_labels_them():
    kinds, found, counts = labelled(R3(judge=f"{HERE}:asks_what"))
    assert kinds == KINDS
    assert counts == {"constrained": 2, "open": 2}
    assert found[0]["reference"] == "x"
    R3Reward().check([Row(HERE, i, row) for i, row in enumerate(found)])
    kinds, _, counts = labelled(R3(judge=f"{HERE}:asks_what"), rows(fails=1))
    assert kinds == KINDS[1:]
    assert counts["left_out_without_a_label"] == 1


def test_an_endpoint_is_asked_with_the_rubric_of_types():
    judge = R3(judge="http://host:1/v1", judge_model="m")._judge()
    assert (judge.low, judge.high) == (0, 1)
    assert "constrained" in judge.rubric


def test_examples_train_a_classifier_of_words(tmp_path):
    file = tmp_path / "examples.jsonl"
    lines = [{"prompt": p, "query_type": k} for p, k in zip(PROMPTS, KINDS, strict=True)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = [Row(HERE, 1, {"prompt": "What is the capital of Peru?"}), Row(HERE, 2, {"prompt": "A story about snow."})]
    kinds, found, _ = labelled(R3(by="examples", examples=str(file)), data)
    assert kinds == ["constrained", "open"]
    assert "reference" not in found[0]


def test_the_classifier_is_naive_bayes():
    data = [Row(HERE, i, {"prompt": p, "query_type": k}) for i, (p, k) in enumerate(
        [("a a b", "constrained"), ("a c", "open"), ("c", "open")])]  # fmt: skip
    found = WordClassifier.of(data)
    assert found.prior == pytest.approx(math.log(1 / 2))
    assert found.odds["a"] == pytest.approx(math.log(3 / 6) - math.log(2 / 6))
    assert found.odds["c"] == pytest.approx(math.log(1 / 6) - math.log(3 / 6))
    assert found.kind("never seen") == "open"  # the prior


def test_random_labels_have_their_share():
    data = [Row(HERE, i, {"prompt": f"question {i}"}) for i in range(400)]
    kinds, _, _ = labelled(R3(by="random", share=0.25), data)
    assert 70 < kinds.count("constrained") < 130
    assert kinds == labelled(R3(by="random", share=0.25), data)[0]
    assert kinds != labelled(R3(by="random", share=0.25), data, seed=1)[0]


@pytest.mark.parametrize(("construction", "message"), [
    (R3(), "--judge is missing"),
    (R3(by="examples"), "--examples is missing"),
    (R3(by="random", share=2.0), "--share is 2.0"),
])  # fmt: skip
def test_options_out_of_range_are_refused(construction, message):
    with pytest.raises(ConfigError, match=message):
        labelled(construction)


def test_examples_need_labels_of_both_kinds():
    with pytest.raises(DataError, match="is 'narrow'"):
        WordClassifier.of([Row(HERE, 1, {"prompt": "x", "query_type": "narrow"})])
    with pytest.raises(ConfigError, match="1 open and 0 constrained"):
        WordClassifier.of([Row(HERE, 1, {"prompt": "x", "query_type": "open"})])
