"""Any construction as a stage: the command's rows, no prompt in both files, mistakes named before any work."""

import json
from dataclasses import replace

import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of

from jaxpo.config import Data, Preference, Pretrain, Run, Tokenizer
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.lcpo import LCPO
from jaxpo.construct.lipo import LiPO
from jaxpo.construct.modpo import MODPO
from jaxpo.construct.rso import RSO
from jaxpo.construct.stage import Construct, prompt_of, split
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.network import Network
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.run import find_problems
from jaxpo.train.signals import Preempted


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


@pytest.fixture
def lists(tmp_path):
    """Scored lists, several rows to each of ten prompts."""
    file = tmp_path / "lists.jsonl"
    rows = [
        {"prompt": f"{word} is", "responses": [f"a {word}", f"no {word}", f"{i}"], "scores": [1.0, 0.5, float(i % 3)]}
        for i, word in enumerate(WORDS[:10] * 3)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_writes_the_rows_of_the_construction_and_counts_them(model, lists, tmp_path):
    stage = Construct(construction=RSO(beta=0.5, n=2), rows=(str(lists),))
    assert stage.outputs() == ("rows.jsonl",)
    report = stage.run(context_of(model, tmp_path / "work"))
    tools = Tools(seed=3)
    assert rows_of(tmp_path / "work" / "rows.jsonl") == list(RSO(beta=0.5, n=2).run(list(read_rows([lists])), tools))
    assert report["rows_read"] == 30
    assert report["rows"] == len(rows_of(tmp_path / "work" / "rows.jsonl"))
    assert all(report[name] == n for name, n in tools.counts.items())


def test_no_prompt_is_both_trained_on_and_held_out(model, lists, tmp_path):
    stage = Construct(construction=LiPO(labels="rank_wins"), rows=(str(lists),), heldout_one_in=4)
    report = stage.run(context_of(model, tmp_path / "work"))
    trained, held = (rows_of(tmp_path / "work" / name) for name in stage.outputs())
    assert (len(trained), len(held)) == (report["rows"], report["heldout_rows"])
    assert len(trained) + len(held) == 30
    assert held
    assert not {r["prompt"] for r in trained} & {r["prompt"] for r in held}


def test_conversations_are_held_out_by_what_their_answers_reply_to():
    turns = [{"role": "user", "content": "Why?"}]
    pair = {side: [*turns, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert prompt_of(pair, 1) == turns
    other = {**pair, "rejected": [*turns, {"role": "assistant", "content": "another"}]}
    trained, held = split([pair, other], 10**9)
    assert (trained, held) == ([], [pair, other])
    assert prompt_of({"text": "a document"}, 1) == {"text": "a document"}


def test_networks_are_those_of_earlier_stages(model, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"{w} is", "chosen": "a", "rejected": "b"}) + "\n" for w in WORDS[:3])
    )
    construction = MODPO(source="model", beta=0.5)
    stage = Construct(
        construction=construction, rows=(str(file),), networks=(("model", "sft"), ("reference", "sft")), max_length=32
    )
    assert stage.needed_models() == ("sft",)
    stage.run(context_of(model, tmp_path / "work"))
    network = Network.of(model, max_length=32)
    tools = Tools(seed=3, networks={"model": network, "reference": network})
    assert rows_of(tmp_path / "work" / "rows.jsonl") == list(construction.run(list(read_rows([file])), tools))

    def stop():
        raise Preempted("stopped", 15)

    with pytest.raises(Preempted):
        stage.run(context_of(model, tmp_path / "again", check=stop))
    with pytest.raises(ConfigError, match=r"construct\.networks: 'sft' has no value head; name a reward stage"):
        replace(stage, networks=(("reward", "sft"),)).run(context_of(model, tmp_path / "reward"))


def test_too_few_rows_are_an_error_with_the_counts(model, tmp_path):
    file = tmp_path / "ties.jsonl"
    file.write_text(json.dumps({"prompt": "a", "responses": ["x", "y"], "scores": [1.0, 1.0]}) + "\n")
    stage = Construct(construction=RSO(n=2), rows=(str(file),))
    with pytest.raises(DataError, match=r"stage construct: too few rows are left .*: rows_read 1, rows 0"):
        stage.run(context_of(model, tmp_path / "work"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"construction": None},
            "construct: construction is None; give a dataclass of jaxpo.construct, such as RSO().",
        ),
        ({"construction": RSO(n=1)}, "construct: construction: --n is 1 but a pair needs 2."),
        (
            {"construction": LCPO(), "networks": (("model", "pretrain"),)},
            "construct: construction: this construction needs a reference; give --reference RUN",
        ),
        ({"networks": (("modle", "pretrain"),)}, "construct: networks: no construction has a network 'modle'; there"),
        ({"networks": (("model", "pretrain"),) * 2}, "construct: networks: 'model' is given 2 times; name one stage."),
        ({"networks": (("model", "sft"),)}, "construct: the model 'sft' is not that of an earlier stage (pretrain)."),
        ({"heldout_one_in": 1}, "construct: heldout_one_in is 1 but must be at least 2; None holds nothing out."),
        ({"rows": ()}, "construct: rows names no file."),
        ({"rows": ("none.jsonl",)}, "construct: reads: there is no file or folder none.jsonl."),
        ({"seed": -1}, "construct.seed: -1 must lie in 0 .. 2^32 - 1."),
    ],
)
def test_mistakes_are_named_before_any_work(lists, changes, message):
    data = Data(train=(str(lists),))
    stage = replace(Construct(construction=RSO(), rows=(str(lists),)), **changes)
    run = Run(tokenizer=Tokenizer(train_on=(str(lists),)), stages=(Pretrain(data=data, max_steps=1), stage))
    problems = list(find_problems(run))
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_a_later_stage_reads_its_rows_and_the_recipe_can_be_stored(lists):
    stage = Construct(name="rank", construction=LiPO(), rows=(str(lists),), seed=7, heldout_one_in=5)
    data = Data(train=("stage:rank/rows.jsonl",), eval=("stage:rank/heldout_rows.jsonl",))
    pretrain = Pretrain(data=Data(train=(str(lists),)), max_steps=1)
    later = Preference(data=data, loss=METHODS["lipo"](), max_steps=1)
    run = Run(tokenizer=Tokenizer(train_on=(str(lists),)), stages=(pretrain, stage, later))
    assert not list(find_problems(run))
    assert from_jsonable(json.loads(json.dumps(to_jsonable(run)))) == run


def test_every_construction_checks_its_options_before_it_reads_a_row():
    found = constructions()
    assert "on_policy" in found
    for name, kind in found.items():
        assert all("is missing" in problem for problem in kind().problems()), name
