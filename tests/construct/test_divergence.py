"""KL between two models along answers of the first, against float64; its mistakes; the recipe of rounds."""

import json

import numpy as np
import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of

from jaxpo.config import Merge, Preference
from jaxpo.construct.divergence import Divergence, divergence_along
from jaxpo.convert.model_io import load_model
from jaxpo.errors import DataError
from jaxpo.evaluate.score import packed_batch
from jaxpo.judges.network import Network
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import load_run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "one", seed)) for seed in (0, 1)]


def log_probs(network, tokens):
    """`[len(tokens), V]` float64, of what follows each token."""
    batch = packed_batch([tokens], [[0]], 1, 64)
    hidden = np.asarray(network.scorer.hidden(network.params["model"], batch)[0, : len(tokens)], np.float64)
    logits = hidden @ np.asarray(network.scorer.unembedding(network.params["model"]), np.float64).T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_it_is_the_divergence_of_the_distributions_that_each_token_is_drawn_from(models):
    one, two = (Network.of(model, max_length=64) for model in models)
    prompts, answers = [f"{w} is " for w in WORDS[:3]], ["open file", "read", "list string close"]
    total, tokens = divergence_along(one, two, prompts, answers)
    expected, count = 0.0, 0
    for segment in one.segments(prompts, answers):
        p, q = (log_probs(network, segment.tokens) for network in (one, two))
        kl = np.sum(np.exp(p) * (p - q), -1)
        drawn = np.flatnonzero(segment.supervised[1:])
        expected, count = expected + kl[drawn].sum(), count + len(drawn)
    assert tokens == count
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    same, _ = divergence_along(one, one, prompts, answers)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)


def test_the_stage_writes_and_says_it(models, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{w} is"}) + "\n" for w in WORDS[:3]))
    said = []
    stage = Divergence(model="sft", other="sft", prompts=(str(file),), max_new_tokens=4, max_length=64, max_prompts=2)
    report = stage.run(context_of(models[0], tmp_path / "work", say=said.append))
    assert json.loads((tmp_path / "work" / "divergence.json").read_text()) == report
    assert report["answers"] <= 2
    assert report["kl_per_token"] == pytest.approx(0.0, abs=1e-6)
    assert "nats per token" in said[0]
    assert stage.needed_models() == ("sft",)
    assert len(Divergence(max_prompts=0, max_new_tokens=0).problems()) == 4
    file.write_text('{"question": "p"}\n')
    with pytest.raises(DataError, match="column 'prompt' is missing"):
        stage.check_inputs([file])


@pytest.mark.parametrize("inner", ["dpo", "sppo"])
def test_the_recipe_samples_anew_and_keeps_what_is_not_extrapolated(inner):
    recipe = load_run("apo_accel")
    assert list(find_problems(recipe)) == []
    from jaxpo.recipes.apo_accel import config

    run = config(alpha=0.5, count=2, inner=inner)
    stages = {stage.name: stage for stage in run.stages}
    first, second = stages["pi_1"], stages["pi_2"]
    assert isinstance(first, Merge)
    assert isinstance(stages["hat_2"], Preference)
    assert (first.models, first.weights) == (("hat_1", "sft"), (1.5, -0.5))
    assert (second.models, second.weights) == (("hat_2", "hat_1"), (1.5, -0.5))
    assert stages["pairs_2"].model == stages["hat_2"].init_from == "pi_1"
    assert stages["pairs_1"].seed != stages["pairs_2"].seed
    assert not stages["pairs_1"].given
    assert (stages["kl_2"].model, stages["kl_2"].other) == ("pi_2", "hat_2")
    assert list(find_problems(run)) == []
