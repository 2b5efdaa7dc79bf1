"""`jaxpo run preference --stage.loss NAME` on the example files: one method of every shape of data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from stages.process import on_devices, without_curves

from jaxpo.cli.main import main
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.convert.reader import Reader
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.texts import texts_of
from jaxpo.errors import ConfigError
from jaxpo.judges.network import Network
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS
from jaxpo.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "files"
MODEL = LFM2Config(
    vocab_size=512,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    max_position_embeddings=128,
    initializer_range=0.2,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a tokenizer of the example files."""
    folder = tmp_path_factory.mktemp("model")
    params = init_params(param_table(MODEL), jax.random.key(0))
    save_model(folder, {"model": params}, MODEL, {"stage": "sft", "trained_on": "nothing"})
    train_tokenizer(texts_of(sorted(FILES.glob("*.jsonl"))), MODEL.vocab_size).save(folder / "tokenizer")
    return folder


def train(model: Path, folder: Path, config: str, file: str, *options: str) -> tuple[dict, dict]:
    """One step as the command line makes it, and an evaluation; returns the last record of each."""
    stage = config
    words = [
        *("run", config, "--run", str(folder / "run"), "--export", "False"),
        *("--model-from", str(model), "--tokenizer.path", str(model / "tokenizer")),
        *(f"--{stage}.data.train", str(FILES / file), f"--{stage}.data.eval", str(FILES / file)),
        *("--stage.data.max-length", "96", "--stage.data.row-length", "96"),
        *("--stage.max-steps", "1", "--stage.rows-per-step", "16", "--stage.logging-steps", "1", "--stage.eval-steps"),
        *("1", "--stage.eval-rows", "16", "--stage.optimizer.learning-rate", "1e-3"),
        *("--stage.optimizer.warmup-ratio", "0"),
    ]
    assert main([*words, *options]) == 0
    records = [record for record in read_metrics(folder / "run" / "metrics.jsonl") if record["stage"] == stage]
    trained = [record for record in records if "loss" in record][-1]
    measured = [record for record in records if "eval_loss" in record][-1]
    for record in (trained, measured):
        assert all(math.isfinite(value) for value in record.values() if isinstance(value, float)), record
    assert trained["grad_norm"] > 0
    return trained, measured


# Eight segments of one example fill three rows, on each of the eight devices.
ROWS_OF_EIGHT = ["--stage.rows-per-step", "24"]
# Method -> example file, and what the method cannot do without.
SHAPES: dict[str, tuple[str, list[str]]] = {
    "bco": ("weights.jsonl", []),
    "dove": ("two_prompt.jsonl", []),
    "irpo_ranking": ("items.jsonl", []),
    "lcpo": ("annotators.jsonl", ["--stage.loss.num-annotators", "3"]),
    "mapl": ("mapl.jsonl", ROWS_OF_EIGHT),
    "mcts_dpo": ("step_pairs.jsonl", []),
    "modpo": ("rewards.jsonl", ["--stage.loss.weights", "0.6", "0.2", "0.2"]),
    "pro_ranking": ("list.jsonl", ["--stage.loss.ties", "order"]),
    "rationales": ("rationale.jsonl", []),
    "rrpo": ("spans.jsonl", []),
    "gpo": ("mean_scores.jsonl", []),
    "simpo": ("preference_implicit.jsonl", []),
    "sparsepo": ("preference_chat.jsonl", []),
    "spo_degree": ("keywords.jsonl", []),
    "sppo_soft": ("annotators.jsonl", []),
    "tpo_tree": ("tree.jsonl", []),
    "tpo_triple": ("triple.jsonl", []),
    "upo": ("smoothing.jsonl", []),
    "vpo": ("calibration.jsonl", ["--stage.loss.calibration", "drawn"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_it_trains_on_its_example(model: Path, tmp_path: Path, name: str) -> None:
    file, options = SHAPES[name]
    train(model, tmp_path, "preference", file, "--stage.loss", name, *options)


@pytest.mark.slow
def test_single_responses_train_kto(model: Path, tmp_path: Path) -> None:
    trained, _ = train(model, tmp_path, "preference", "unpaired.jsonl", "--stage.loss", "kto")
    assert "kl" in trained


@pytest.mark.slow
def test_lists_train_lipo(model: Path, tmp_path: Path) -> None:
    train(model, tmp_path, "preference", "list.jsonl", "--stage.loss", "lipo")


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device; programs for eight, as the others' are, compile several times longer."""
    on_devices(monkeypatch, 1)
    without_curves(monkeypatch)


@pytest.mark.usefixtures("one")
def test_pairs_with_every_option(model: Path, tmp_path: Path) -> None:
    """Diagnostics, WPO's weights, and the best checkpoint by a metric that only pairs with votes have."""
    options = [
        *("--stage.loss", "dpo", "--stage.use-weighting", "True"),
        *("--stage.diagnostics", "ranking_accuracy", "likelihood"),
        *("--stage.metric-for-best-model", "eval_ranking_accuracy/idealised", "--stage.save-steps", "1"),
    ]
    trained, measured = train(model, tmp_path, "preference", "annotators.jsonl", *options)
    assert {"ranking_accuracy", "difficulty/mean", "likelihood/shift/chosen"} <= set(trained)
    assert 0 <= measured["eval_ranking_accuracy/idealised"] <= 1


@pytest.mark.usefixtures("one")
def test_instructions_train_a_reward_model(model: Path, tmp_path: Path) -> None:
    """MAPL's reward form by name, with the best checkpoint by a metric of its own."""
    options = [
        *("--stage.loss", "mapl_reward", "--stage.loss.intra-weight", "0.5", *ROWS_OF_EIGHT),
        *("--stage.metric-for-best-model", "eval_intra/accuracies", "--stage.save-steps", "1"),
    ]
    trained, measured = train(model, tmp_path, "reward", "mapl.jsonl", *options)
    assert {"accuracy", "margin", "mean_reward", "intra/accuracies", "inter/accuracies"} <= set(trained)
    assert 0 <= measured["eval_intra/accuracies"] <= 1
    np.testing.assert_allclose(
        trained["loss"], (1 + 0.5 * 2 / 4 + 2 / 4) * np.log(2), rtol=1e-5
    )  # the head starts at 0


REWARDS: dict[str, tuple[str, list[str]]] = {
    "bradley_terry": ("annotators.jsonl", ["--stage.loss.soft-labels", "True", "--stage.loss.lm-coefficient", "0.1"]),
    "davidson": ("groups.jsonl", []),
    "embedding_reward": ("preference.jsonl", ["--stage.loss.size", "8", "--stage.loss.query", "prompt"]),
    "gpm": ("annotators.jsonl", ["--stage.loss.size", "4", "--stage.loss.ptx-coefficient", "0.1"]),
    "maxmin_rlhf": ("responsibilities.jsonl", ["--stage.loss.combine", "least"]),
    "micro": ("annotators.jsonl", ["--stage.loss.heads", "3"]),
    "micro_router": ("weights_of_heads.jsonl", ["--stage.loss.heads", "2"]),
    "outcome_reward": ("unpaired.jsonl", ["--stage.loss.yes-no", "7", "9"]),
    "pal": ("responsibilities.jsonl", ["--stage.loss.users", "bob", "ann", "--stage.loss.size", "8"]),
    "plackett_luce": ("list.jsonl", ["--stage.loss.ties", "order", "--stage.loss.top-k", "2"]),
    "rao_kupper": ("groups.jsonl", ["--stage.data.spread-groups", "True"]),
    "rating": ("rated.jsonl", ["--stage.loss.aspects", "brief", "helpful", "--stage.pooled-dropout", "0.1"]),
    "process_reward": ("steps.jsonl", ["--stage.loss.combine", "mean"]),
    "themis": ("parts.jsonl", ["--stage.loss.normalisation", "pooled"]),
}


@pytest.mark.parametrize(
    "name", [name if name == "rao_kupper" else pytest.param(name, marks=pytest.mark.slow) for name in REWARDS]
)
def test_reward_models_train_on_their_examples(model: Path, tmp_path: Path, name: str, capsys) -> None:
    file, options = REWARDS[name]
    trained, measured = train(model, tmp_path, "reward", file, "--stage.loss", name, *options)
    assert {"loss", "mean_reward"} <= set(trained)
    if file == "groups.jsonl":
        groups = {key for key in measured if key.startswith("eval_rewards/accuracies/")}
        assert groups == {"eval_rewards/accuracies/facts", "eval_rewards/accuracies/lists"}
        assert "worst of 2 groups: " in capsys.readouterr().out


TWO_ASPECTS = ["--stage.loss.aspects", "brief", "helpful"]


@pytest.mark.slow
def test_a_run_leaves_a_reward_model_that_says_how_it_is_read(model: Path, tmp_path: Path, capsys) -> None:
    """As a stage, as a checkpoint of it, exported by the run, and by the command."""
    options = [*TWO_ASPECTS, "--stage.pooled-dropout", "0.1", "--export", "True", "--stage.save-steps", "1"]
    train(model, tmp_path, "reward", "rated.jsonl", "--stage.loss", "rating", *options)
    assert "reward model exported with 2 tensors of heads, and verified" in capsys.readouterr().out
    run = tmp_path / "run"
    assert main(["export", str(run), str(tmp_path / "again")]) == 0
    assert "its heads are in heads.safetensors, read by rating as reward.json says" in capsys.readouterr().out
    expected = Reader(METHODS["rating"](aspects=("brief", "helpful")), pooled_dropout=0.1)
    checkpoint = run / "stages" / "reward" / "checkpoints" / "00000001"
    texts = (["p"] * 2, ["a short answer", "another"])
    scores = []
    for folder in (run, checkpoint, run / "export", tmp_path / "again"):
        found = load_model(folder)
        assert found.reader == expected
        scores.append(Network.of(found, max_length=64).rewards(*texts))
        np.testing.assert_allclose(scores[-1], scores[0], rtol=1e-6)


REFUSED: dict[str, tuple[list[str], str]] = {
    "groups": (["reward", "--stage.loss", "bradley_terry"], "row 2, field 'tie': the pair is tied, as 1 are, and brad"),
    "apart": (
        ["preference", "--stage.loss", "kto"],
        "row 2, field 'tie': the pair is tied: neither response is the ba",
    ),
    "names": (["reward", "--stage.loss", "rating"], "the rows rate brief, helpful, but aspects is rating; give their"),
    "scale": (
        ["reward", "--stage.loss", "rating", *TWO_ASPECTS, "--stage.loss.low", "1", "--stage.loss.high", "5"],
        "row 4, field 'ratings': rating: ratings lie between 0 and 5, but low is 1.0 and high is 5.0",
    ),
    "stranger": (
        ["reward", "--stage.loss", "pal", "--stage.loss.users", "ann", "cy"],
        "row 2, field 'user': 'bob' is not among the 2 known: ann, cy.",
    ),
    "absent": (
        ["reward", "--stage.loss", "pal", "--stage.loss.users", "ann", "bob", "cy"],
        "pal: 1 of the users have no row (cy)",
    ),
    "ungrouped": (["reward", "--stage.data.spread-groups", "True"], "field 'group': there is no column 'group'."),
}
FILE_OF = {
    **{"groups": "groups", "apart": "groups", "names": "rated", "scale": "rated", "ungrouped": "preference"},
    **{"stranger": "responsibilities", "absent": "responsibilities"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_a_reward_model_cannot_be_trained_on(model: Path, tmp_path: Path, name: str, capsys) -> None:
    (stage, *options), problem = REFUSED[name]
    with pytest.raises(AssertionError, match="assert 2 == 0"):
        train(model, tmp_path, stage, f"{FILE_OF[name]}.jsonl", *options)
    assert problem in capsys.readouterr().err


ALIKE = {
    "outcome_reward": ({"completion": "a good answer", "label": True}, {"label": False}, "answer"),
    "process_reward": ({"completions": ["so", "thus"], "labels": [True, None]}, {"labels": [0.2, 1]}, "step"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_group_that_is_all_alike(model: Path, tmp_path: Path, name: str, capsys) -> None:
    good, other, what = ALIKE[name]
    row = {"prompt": "p", "group": "facts", **good}
    rows = [row, {**row, **other}, {**row, "group": "lists"}]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(AssertionError, match="assert 2 == 0"):
        train(model, tmp_path, "reward", str(tmp_path / "alike.jsonl"), "--stage.loss", name)
    assert f"field 'group': every {what} of the group 'lists' has label true" in capsys.readouterr().err


@pytest.mark.slow
def test_demonstrations_train_the_implicit_reward(model: Path, tmp_path: Path) -> None:
    train(model, tmp_path, "sft", "prompt_completion.jsonl", "--stage.loss", "implicit_reward")


def test_an_orchestrator_learns_beside_a_model_that_stays_and_keeps_its_statistics(model: Path, tmp_path: Path) -> None:
    """From prompts with the rewards of their preferred answers; what it gives are weights, of prompts."""
    options = [
        *("--stage.loss", "pro_orchestrator", "--stage.loss.objectives", "creative", "factual"),
        *("--stage.loss.width", "8", "--stage.train", "orchestrator/*"),
    ]
    trained, _ = train(model, tmp_path, "reward", "rated_prompts.jsonl", *options)
    assert {"argmax_accuracy", "weights_entropy", "targets_entropy"} <= set(trained)
    rated = [json.loads(line)["ratings"] for line in (FILES / "rated_prompts.jsonl").read_text().splitlines()]
    values = np.array([[r["creative"], r["factual"]] for r in rated])
    found = load_model(tmp_path / "run")
    own = found.params["orchestrator"]
    np.testing.assert_allclose(own["offset"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(own["scale"], values.std(0), rtol=1e-5)
    before = load_model(model).params["model"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params["model"]), jax.device_get(before))
    network = Network.of(found, max_length=64)
    names, weights = network.heads(["Write a poem. ", "When was it? "], None)
    assert names == ("creative", "factual")
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)
    with pytest.raises(ConfigError, match="weights of rewards for a prompt, and no reward"):
        network.rewards(["p"], ["a"])
