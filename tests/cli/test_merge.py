"""`jaxpo merge` with a method, a mergekit file, and a search, on one-layer models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from cli.conftest import WORDS, make_model

from jaxpo.convert.model_io import load_model
from jaxpo.merge.methods import Ties
from jaxpo.merge.trees import merge_trees

Command = Callable[..., tuple[int, str, str]]


def tree(path: Path) -> dict:
    return load_model(path).params["model"]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "base", 2)


def test_a_method_with_its_options(
    run: Command, model: Path, other_model: Path, base_model: Path, tmp_path: Path
) -> None:
    options = ("--method", "ties", "--density", "0.5", "0.9", "--lambda", "0.7", "--base", base_model)
    out = ("--out", tmp_path / "out", "--format", "jaxpo")
    code, said, err = run("merge", model, other_model, *options, "--weights", "3", "1", *out)
    assert (code, err) == (0, "")
    assert said.splitlines() == [
        f"    base   {base_model}",
        f"  3.0000 x {model}",
        f"  1.0000 x {other_model}",
        f"{tmp_path / 'out'}: written as a jaxpo model",
    ]
    method = Ties(density=(0.5, 0.9), scale=0.7)
    expected = merge_trees(method, [tree(model), tree(other_model)], (3, 1), base=tree(base_model))
    for a, b in zip(jax.tree.leaves(tree(tmp_path / "out")), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert load_model(tmp_path / "out").tokenizer is not None


def test_a_mergekit_file(run: Command, model: Path, other_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(
        f"models:\n  - {{model: {model}, parameters: {{weight: 1}}}}\n"
        f"  - {{model: {other_model}, parameters: {{weight: 3}}}}\nmerge_method: linear\ndtype: bfloat16\n"
    )
    code, said, err = run("merge", file, tmp_path / "out", "--no-verify")
    assert (code, err) == (0, "")
    assert said.splitlines()[:2] == [f"  0.2500 x {model}", f"  0.7500 x {other_model}"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    code, _, err = run("merge", file, tmp_path / "out2", "--weights", "1", "1")
    assert (code, err) == (2, "jaxpo: merge: --weights is the file's business; leave it out.\n")
    file.write_text("merge_method: evolve\nmodels: []\n")
    code, _, err = run("merge", file, tmp_path / "out2")
    assert code == 2
    assert "merge_method: 'evolve' is not implemented. Known: linear, slerp," in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["MODEL", "OTHER", "--method", "tie"], "there is no merge method 'tie'. Did you mean ties"),
        (
            ["MODEL", "OTHER", "--method", "ties"],
            "merge: base: ties adds to a base what the models learned since; name that model.",
        ),
        (
            ["MODEL", "OTHER", "--method", "ties", "--base", "BASE", "--density", "1.5"],
            "merge: density: 1.5 must lie in (0, 1]; it is the share of a task vector's entries that is kept.",
        ),
        (["MODEL", "OTHER", "--method", "ties", "--density", "x"], "--density: expected a number or"),
        (["MODEL", "OTHER", "--density", "0.5"], "--density: there is no such option."),
        (["MODEL", "MODEL"], "is given twice; give it once, with a larger weight."),
        (["MODEL", "OTHER", "--methods", "soup"], "merge: --methods belongs to a search; add --search."),
        (["MODEL", "OTHER", "--search"], "merge: --select: give held-out files."),
        (
            ["MODEL", "OTHER", "--search", "--select", "PAIRS", "--report", "PAIRS"],
            "also selects; the best of many looks better there than it is. Report another file.",
        ),
        (
            ["MODEL", "OTHER", "--search", "--select", "PAIRS", "--report", "gone.jsonl", "--metric", "bits=x"],
            "--metric: expected NAME=WEIGHT, got 'bits=x'.",
        ),
    ],
)
def test_mistakes(
    run: Command,
    model: Path,
    other_model: Path,
    base_model: Path,
    pairs: Path,
    tmp_path: Path,
    argv: list[str],
    message: str,
) -> None:
    names = {"MODEL": model, "OTHER": other_model, "BASE": base_model, "PAIRS": pairs}
    code, _, err = run("merge", *(names.get(a, a) for a in argv), "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_help_lists_methods_and_the_options_of_the_one_named(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, word in ((("--help",), "model_stock"), (("--method", "della", "--help"), "--epsilon")):
        with pytest.raises(SystemExit):
            run("merge", *argv)
        assert word in capsys.readouterr().out


@pytest.mark.slow  # tests/merge/test_merge_stage.py searches within a recipe
def test_a_search_leaves_the_best_and_how_it_was_found(
    run: Command, model: Path, other_model: Path, pairs: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    rows = [{"prompt": f"open the {w}", "chosen": f"read {w}", "rejected": f"{w} error"} for w in WORDS]
    report.write_text("".join(json.dumps(r) + "\n" for r in rows))
    argv = ("merge", model, other_model, "--search", "--select", pairs, "--report", report, "--methods", "soup")
    argv = (*argv, "slerp", "--out", tmp_path / "best", "--format", "jaxpo", "--max-length", "64")
    code, said, err = run(*argv)
    assert (code, err) == (0, "")
    folder = tmp_path / "best.search"
    document = json.loads((folder / "search.json").read_text())
    merges = {r["label"]: r["score"] for r in document["rows"] if r["on"] == "select" and r["kind"] == "merge"}
    assert list(merges) == ["soup 0.5 0.5", "soup 0.75 0.25", "soup 0.25 0.75", "slerp"]
    assert document["best"] == max(merges, key=lambda label: merges[label])
    assert document["metrics"] == [["ranking_accuracy", 1.0]]
    assert f"best: {document['best']}; on the report files ranking_accuracy" in said
    assert sorted(p.name for p in folder.iterdir()) == [
        "question.json",
        "results.jsonl",
        "search.json",
        "search.md",
        "search.png",
    ]
    weights = {"soup 0.5 0.5": 0.5, "soup 0.75 0.25": 0.75, "soup 0.25 0.75": 0.25}.get(document["best"])
    if weights is not None:
        expected = jax.tree.map(lambda a, b: weights * a + (1 - weights) * b, tree(model), tree(other_model))
        for a, b in zip(jax.tree.leaves(tree(tmp_path / "best")), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
