"""A folder that a run is given: its own split for training and for evaluation, said at the start."""

import json

import pytest
import stages.recipe as recipes

from jaxpo.config import SFT, Data, Run, Tokenizer
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.run_inputs import make_inputs


@pytest.fixture
def run_of(tmp_path):
    """`run_of(train=..., eval=...)`: a run with these data."""
    train_tokenizer(["good bad open close"] * 4, 300).save(tmp_path / "tokenizer")

    def make(**data):
        stage = SFT(data=Data(max_length=32, row_length=64, **data), max_steps=1)
        return Run(model=recipes.MODEL, tokenizer=Tokenizer(path=str(tmp_path / "tokenizer")), stages=(stage,))

    return make


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, n in files.items():
        rows = [{"prompt": f"{name} {i} ", "completion": "good"} for i in range(n)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_one_folder_for_training_and_evaluation(tmp_path, run_of):
    folder = write(tmp_path / "ds", train=5, validation=2, test=3)
    run = run_of(train=(folder,), eval=(folder,))
    assert not list(find_problems(run))
    said = []
    data = make_inputs(run, tmp_path / "run", said.append).of(run.stages[0])
    assert (len(data.train), len(data.held_out)) == (5, 2)
    assert f"{folder}: the train split is read (train.jsonl); left out: test.jsonl, validation.jsonl" in said
    assert f"{folder}: the validation split is read (validation.jsonl); left out: test.jsonl, train.jsonl" in said


def test_a_named_file_is_read_with_a_warning(tmp_path, run_of):
    folder = write(tmp_path / "ds", train=5, my_test=3)
    said = []
    run = run_of(train=(f"{folder}/my_test.jsonl",), eval=(f"{folder}/train.jsonl",))
    data = make_inputs(run, tmp_path / "run", said.append).of(run.stages[0])
    assert (len(data.train), len(data.held_out)) == (3, 5)
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings == [f"warning: {folder}/my_test.jsonl is read for training, and its name says 'test'"]


def test_a_folder_that_cannot_be_meant_is_a_problem_of_the_configuration(tmp_path, run_of):
    folder = write(tmp_path / "ds", train=2, more=2)
    (problem,) = find_problems(run_of(train=(folder,)))
    assert problem.startswith("sft.data.train: ")
    assert "beside the training split" in problem
    (problem,) = find_problems(run_of(train=(f"{folder}/train.jsonl",), eval=(folder,)))
    assert problem.startswith("sft.data.eval: ")
    assert "no held-out one" in problem
