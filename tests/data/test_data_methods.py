"""Every method of the catalogue finds what it needs in an example file, and its batches hold it."""

from __future__ import annotations

import pytest

from jaxpo.config import Data
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.requirements import check_needs
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import DataError
from jaxpo.objectives.methods import METHODS


def group(needs):
    """Methods that ask the same of the data are one case."""
    return needs.roles, needs.columns, needs.per_token, needs.optional_roles


ASKED = {}
for name, method in METHODS.items():
    if method.INFO.family == "rollouts":
        continue  # the model writes its answers: no file has them
    if method.INFO.family in ("images", "pairs of images"):
        continue  # reads no texts: tests/diffusion/test_image_data.py
    if method.INFO.family == "retrieval":
        continue  # asks for a vocabulary with prefixes: tests/retrieval trains on the example files' forms
    ASKED.setdefault((group(method.NEEDS), method.INFO.family == "sft"), []).append(name)
CASES = {names[0]: names for names in ASKED.values()}


def usable(files, method):
    """Example files whose first row the method can read."""
    purpose = "sft" if method.INFO.family == "sft" else "preference"
    for file in sorted(files.glob("*.jsonl")):
        try:
            check_needs(next(read_rows([file])), purpose, method.NEEDS)
        except DataError:
            continue
        yield file, purpose


@pytest.mark.parametrize("name", CASES)
def test_an_example_file_trains_it(files, tokenizer, tmp_path, name):
    method = METHODS[name]
    if name == "token_classification":
        method = method(classes=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    needs = method.NEEDS
    data = Data(max_length=128, row_length=128)
    tried = []
    for file, purpose in usable(files, method):
        try:
            dataset = prepare(
                [file],
                data=data,
                tokenizer=tokenizer,
                purpose=purpose,
                needs=needs,
                cache_dir=tmp_path,
                log=lambda line: None,
            )
        except DataError as error:
            # Files that only as a whole lack something: no row has the optional segments, or one is tied.
            if "no row has" not in str(error) and "the pair is tied" not in str(error):
                raise
            continue
        tried.append(file.stem)
        batch = Loader(dataset, data, seed=0, rows_per_step=8).batch(0)
        assert {*needs.roles, *needs.optional_roles} <= set(batch.roles)
        assert set(needs.columns) <= set(batch.per_example)
        assert set(needs.per_token) == set(batch.per_token)
        for label in needs.per_token:
            assert batch.per_token[label].max() >= 1
        for role in needs.roles:
            present = batch.roles[role][batch.example_id >= 0]
            assert (present >= 0).any(axis=tuple(range(1, present.ndim))).all(), "every example has its required roles"
    assert tried, f"no example file serves {', '.join(CASES[name])}"
