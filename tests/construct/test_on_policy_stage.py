"""On-policy pairs as a stage: its files, its report, its stop and its settings."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of

from jaxpo.config import SFT, Compute, Data, Preference, Run
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.stage import split
from jaxpo.convert.model_io import load_model
from jaxpo.errors import DataError
from jaxpo.judges import FunctionJudge, RewardJudge
from jaxpo.judges.network import Network
from jaxpo.judges.refine import FunctionRefiner
from jaxpo.recipe.checks.run import find_problems
from jaxpo.sampling.fitted import fitted
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import requests_for
from jaxpo.sharding import make_mesh
from jaxpo.stages import working
from jaxpo.stages.assemble import make_scorer
from jaxpo.train.signals import Preempted


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


@pytest.fixture
def bench(model, tmp_path):
    """A stage over five prompts whose judge likes long answers, and a context with a check that can be changed."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{w} is", "completion": f"a {w} file"}) + "\n" for w in WORDS[:5]))
    (tmp_path / "judge.py").write_text("def f(prompt, answer, row):\n    return len(answer)\n")
    judge = FunctionJudge(f"{tmp_path}/judge.py:f")
    stage = OnPolicyPairs(
        prompts=(str(file),), judge=judge, samples=2, max_new_tokens=8, keep_unfinished=True, max_length=100, max_rows=4
    )
    return stage, context_of(model, tmp_path / "work")


def test_it_writes_what_it_promises_and_goes_on_after_a_stop(bench, tmp_path):
    stage, context = bench
    report = stage.run(context)
    files = {name: (context.folder / name).read_text() for name in stage.outputs()}
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    assert {name: len(r) for name, r in rows.items()} == {
        "pairs.jsonl": report["pairs"],
        "heldout_pairs.jsonl": report["heldout_pairs"],
    }
    assert report["samples_drawn"] == 10
    assert report["pairs"] + report["heldout_pairs"] + report.get("rows_left_out_equal_scores", 0) == 5
    trained, held = ({json.dumps(row["prompt"]) for row in rows[name]} for name in stage.outputs())
    assert held
    assert not trained & held

    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise Preempted("stopped", 15)

    (tmp_path / "again").mkdir()
    again = replace(context, folder=tmp_path / "again", check=stop)
    with pytest.raises(Preempted):
        stage.run(again)
    assert 0 < stage.run(replace(again, check=lambda: None))["samples_drawn"] < 10
    assert {name: (again.folder / name).read_text() for name in stage.outputs()} == files


def context_of_run(model, dtype):
    """What a run with this compute dtype gives a work stage."""
    setting = SimpleNamespace(
        run=SimpleNamespace(seed=3),
        home=SimpleNamespace(path=model.path.parents[1]),
        inputs=SimpleNamespace(tokenizer=model.tokenizer, config=model.config, resolve=tuple),
        scorer=make_scorer(model.config, Compute(dtype=dtype)),
        console=SimpleNamespace(say=print),
        stop=None,
        mesh=make_mesh({}, jax.devices()[:1]),
        rules=None,
        with_models=lambda stage: ["sft"],
    )
    return working._context(setting, OnPolicyPairs(), model.path.parent, setting.mesh)


def test_a_run_s_networks_score_and_sample_in_its_compute_dtype(model):
    networks = {dtype: context_of_run(model, dtype).network("sft") for dtype in ("float32", "bfloat16")}
    for dtype, network in networks.items():
        assert network.dtype == network.scorer.dtype == dtype
    plain = Network.of(model)
    prompts, answers = [f"{word} is" for word in WORDS[:3]], [f" a {word} file" for word in WORDS[:3]]
    scores = {name: network.logps(prompts, answers) for name, network in networks.items()}
    np.testing.assert_array_equal(scores["float32"], plain.logps(prompts, answers))
    np.testing.assert_allclose(scores["bfloat16"], scores["float32"], rtol=0.02)
    assert np.all(scores["bfloat16"] != scores["float32"])
    options = {"sampler": Sampler(), "max_new_tokens": 6, "seed": 1}
    requests = requests_for(model.tokenizer, prompts, Request((), n=2, **options))
    expected = fitted(model.params["model"], model.config, requests, tokenizer=model.tokenizer).generate(requests)

    def drawn(network):
        found = [one for some in network.draw(prompts, 2, numbers=range(3), **options) for one in some]
        return sorted(found, key=lambda one: (one.request, one.sample))

    for one, other in zip(drawn(networks["float32"]), expected, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.logps, other.logps)
    low = drawn(networks["bfloat16"])
    assert len(low) == 6
    assert any(list(a.logps) != list(b.logps) for a, b in zip(low, expected, strict=True))
    said = networks["bfloat16"].generate(prompts, 1, temperature=1.0, top_k=0, max_new_tokens=4, seed=0)
    assert [len(texts) for texts in said] == [1, 1, 1]


def test_too_few_pairs_are_an_error_with_the_counts(bench):
    stage, context = bench
    with pytest.raises(DataError, match="stage on_policy: pairs of two prompts at least are needed: rows 5, pairs 0"):
        replace(stage, min_score=1000.0, samples=0).run(context)


def test_no_prompt_is_on_both_sides():
    pairs = [{"prompt": f"p{i % 40}", "n": i} for i in range(120)]
    trained, held = split(pairs, 5)
    assert len(trained) + len(held) == 120
    assert 3 <= len({p["prompt"] for p in held}) <= 16
    assert not {p["prompt"] for p in trained} & {p["prompt"] for p in held}
    assert [p["prompt"] for p in split(pairs[:2], 10**9)[1]] == ["p0"]


def test_mistakes_are_named_before_the_run(bench):
    stage, _ = bench
    train = SFT(data=Data(train=stage.prompts), max_steps=1)
    after = Preference(data=Data(train=("stage:on_policy/pairs.jsonl",)), max_steps=1)

    def problems(stage):
        return [p for p in find_problems(Run(stages=(train, stage, after))) if "on_policy" in p]

    assert problems(stage) == []
    wrong = replace(
        stage, judge="reward", refiner=FunctionRefiner("nowhere:f"), samples=-1, prompts=(), heldout_one_in=1
    )
    assert [p.partition(": ")[2] for p in problems(wrong)] == [
        "samples is -1 but must be at least 0.",
        "heldout_one_in is 1 but must be at least 2.",
        "prompts names no file.",
        "judge is 'reward'; give one of jaxpo.judges.",
        "the module 'nowhere' cannot be imported: No module named 'nowhere'.",
    ]
    (problem,) = problems(replace(stage, judge=RewardJudge("reward")))
    assert problem.startswith("on_policy: the model 'reward' is not that of an earlier stage (sft).")


def test_a_recipe_holds_it_without_jax_and_comes_back_from_json(bench):
    stage, _ = bench
    assert from_jsonable(to_jsonable(stage)) == stage
    code = "import sys, jaxpo.construct.on_policy.stage, jaxpo.judges; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
