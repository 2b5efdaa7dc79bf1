"""An SFT stage that minimises a method of its family: from the command line's flags to the metrics; what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.config import SFT, Preference
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.kinds import method_of, networks_of
from jaxpo.recipe.overrides import resolve_run
from jaxpo.stages.run import execute
from jaxpo.train.metrics import read_metrics

FLAGS = ["--stage.loss", "implicit_reward", "--stage.loss.value", "running", "--stage.loss.beta", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    recipes.write_data(folder)
    whole = recipes.recipe(folder, export=False, prompts=())
    sft = whole.stages[1]
    short = {"max_steps": 3, "save_steps": 0, "eval_steps": 0, "rows_per_step": 8}
    data = dataclasses.replace(sft.data, eval=(), block_rows=1)
    return dataclasses.replace(whole, stages=(dataclasses.replace(sft, data=data, **short),))


def test_the_flag_chooses_the_method_and_its_fields(run):
    stage = resolve_run(run, FLAGS).run.stages[0]
    assert stage.loss == METHODS["implicit_reward"](value="running", beta=0.5)
    assert [(n.name, n.recorded) for n in networks_of(stage)] == [("reference", True)]
    assert not networks_of(dataclasses.replace(stage, precompute_ref_log_probs=False))[0].recorded
    assert not networks_of(run.stages[0])
    assert method_of(run.stages[0]).NEEDS.kind("reference") == "none"


def test_a_recipe_with_a_preference_stage_keeps_the_short_flag_for_it(run, tmp_path):
    both = dataclasses.replace(run, stages=(*run.stages, Preference(loss=METHODS["dpo"]())))
    assert resolve_run(both, ["--stage.loss.beta", "0.3"]).run.stages[1].loss.beta == 0.3
    assert resolve_run(both, ["--sft.loss", "implicit_reward"]).run.stages[0].loss == METHODS["implicit_reward"]()


@pytest.mark.parametrize(
    ("stage", "method", "message"),
    [
        (SFT, "dpo", "sft.loss: dpo (family 'pairs') belongs to a Preference stage; this one is SFT."),
        (Preference, "implicit_reward", "(family 'sft') belongs to a SFT stage; this one is Preference."),
    ],
)
def test_a_method_of_another_family_is_refused(run, stage, method, message):
    given = stage(data=run.stages[0].data, max_steps=3, loss=METHODS[method]())
    with pytest.raises(ConfigError) as error:
        check(dataclasses.replace(run, stages=(given,)))
    assert message in str(error.value)


def test_bad_settings_and_the_methods_metrics(run):
    wrong = dataclasses.replace(run.stages[0], loss=METHODS["implicit_reward"](beta=0.0))
    with pytest.raises(ConfigError, match="implicit_reward: beta is 0"):
        check(dataclasses.replace(run, stages=(wrong,)))
    data = dataclasses.replace(run.stages[0].data, eval=run.stages[0].data.train)
    best = dataclasses.replace(run.stages[0], data=data, metric_for_best_model="eval_nll")
    with pytest.raises(ConfigError, match="has no metric 'eval_nll'"):
        check(dataclasses.replace(run, stages=(best,)))
    check(dataclasses.replace(run, stages=(dataclasses.replace(best, loss=METHODS["implicit_reward"]()),)))
    without = dataclasses.replace(run.stages[0], load_best_model_at_end=True)
    with pytest.raises(ConfigError, match="load_best_model_at_end: by no metric is one the best"):
        check(dataclasses.replace(run, stages=(without,)))


@pytest.mark.slow
def test_a_whole_stage_with_a_stored_reference(run, capsys):
    resolved = resolve_run(run, FLAGS).run
    assert execute(resolved) == 0
    assert "max |stored - recomputed|" in capsys.readouterr().out
    records = [r for r in read_metrics(Path(run.output_dir) / run.name / "metrics.jsonl") if "nll" in r]
    assert [r["step"] for r in records] == [1, 2, 3]
    np.testing.assert_allclose(records[0]["loss"], 0.0, atol=1e-4)
    np.testing.assert_allclose(records[0]["sft_weight"], 1.0, atol=1e-4)
    assert records[2]["implicit_reward"] > 1e-3
    assert records[2]["nll"] < records[0]["nll"] + 1.0
