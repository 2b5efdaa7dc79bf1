"""The quickstart's configuration: valid, saved exactly, and turned to a user's own files from the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jaxpo.config import serialise
from jaxpo.corpora.own_files import OwnFiles
from jaxpo.corpora.stdlib_docs import StdlibDocs
from jaxpo.errors import ConfigError
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.overrides import load_run, load_run_with, resolve_run

QUICKSTART = "quickstart"


def test_it_is_a_valid_recipe_of_every_stage():
    run = load_run(QUICKSTART)
    check(run)
    assert [type(s).__name__ for s in run.stages] == ["Pretrain", "SFT", "Preference", "Merge"]
    assert run.corpus == StdlibDocs()
    assert all(s.max_tokens for s in run.stages[:3]), "budgets are in tokens"
    assert run.model.vocab_size >= run.tokenizer.vocab_size
    assert max(p.max_length for p in run.probes if hasattr(p, "max_length")) <= 256


def test_it_survives_saving(tmp_path):
    run = load_run(QUICKSTART)
    (tmp_path / "config.json").write_text(serialise.dump(run))
    assert load_run(str(tmp_path)) == run


def test_own_files_are_parameters_of_the_recipe():
    run, rest = load_run_with(QUICKSTART, ["--text", "notes/", "--seed", "1", "--pairs=p.jsonl", "--no-export"])
    assert run.corpus == OwnFiles(text="notes/", pairs="p.jsonl")
    assert rest == ["--seed", "1", "--no-export"]
    assert resolve_run(run, rest).run.seed == 1
    assert load_run_with(QUICKSTART, ["--seed", "1"]) == (load_run(QUICKSTART), ["--seed", "1"])


@pytest.mark.parametrize("words", [["--text"], ["--text", "a", "b"]])
def test_a_parameter_needs_one_value(words):
    with pytest.raises(ConfigError, match=r"--text: needs one value \(a parameter of config\(\) in .*quickstart\.py\)"):
        load_run_with(QUICKSTART, words)


def test_reading_the_configuration_imports_no_jax():
    code = (
        "import sys; from jaxpo.recipe.overrides import load_run; load_run(sys.argv[1]); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, QUICKSTART], check=True)
