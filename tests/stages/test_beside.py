"""Networks beside the trained one: named by a stage, run or recorded, with adapters or without, and kept the same."""

import dataclasses
import json
import random
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cli.conftest import make_model
from stages.recipe import sentence

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import SFT, Beside, Data, LoRA, Optimizer, Preference, Run, Tokenizer
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.judges.network import Network
from jaxpo.models.heads import value_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods import METHODS
from jaxpo.sharding import make_mesh, put_batch, use_mesh
from jaxpo.stages.beside import check_beside, same_beside
from jaxpo.stages.frozen import FrozenNetwork
from jaxpo.stages.recording import record_per_token
from jaxpo.stages.run import execute
from jaxpo.train.metrics import read_metrics

BETA = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of one tokenizer, and pairs."""
    folder, rng = tmp_path_factory.mktemp("beside"), random.Random(0)
    for seed, name in enumerate(("start", "other")):
        make_model(folder / name, seed)
    for name, n in (("train", 12), ("eval", 8)):
        rows = [
            {"prompt": "path file", "chosen": sentence(rng, 2, 4), "rejected": sentence(rng, 2, 6)} for _ in range(n)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(folder):
    """A stage that leaves a reference, then the same preference stage with that reference, in every way."""
    start, files = str(folder / "start"), {part: (str(folder / f"{part}.jsonl"),) for part in ("train", "eval")}
    data = Data(train=files["train"], eval=files["eval"], max_length=64, row_length=64, block_rows=1)
    common = {"max_steps": 2, "rows_per_step": 8, "optimizer": Optimizer(learning_rate=1e-2), "init_from": start}
    sft = SFT(data=dataclasses.replace(data, train=(str(folder / "sft.jsonl"),), eval=()), **common)
    named = {"loss": METHODS["dpo"](beta=BETA), "data": data, **common}
    online, stored = Beside("sft", recorded=False), Beside("sft")
    return Run(
        name="run",
        output_dir=str(folder / "runs"),
        model_from=start,
        tokenizer=Tokenizer(path=str(folder / "start" / "tokenizer")),
        export=False,
        prompts=(),
        stages=(
            sft,
            Preference(name="online", beside=(("reference", online),), **named),
            Preference(name="stored", beside=(("reference", stored),), **named),
            Preference(
                name="adapted",
                lora=LoRA(rank=2),
                beside=(("reference", Beside(str(folder / "other"), False)),),
                **named,
            ),
        ),
    )


@pytest.fixture(scope="module")
def home(folder, one_device):
    (folder / "sft.jsonl").write_text('{"prompt": "path", "completion": "file join read"}\n' * 6)
    assert execute(recipe(folder)) == 0
    return folder / "runs" / "run"


def held_out_loss(folder, policy, reference):
    """DPO's loss over the held-out pairs from summed log-probs, in float64."""
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    tokenizer = load_model(folder / "start").tokenizer
    p, r = (Network.of(model, tokenizer=tokenizer, max_length=64) for model in (policy, reference))
    margin = sum(
        sign * (p.logps(prompts, [row[side] for row in rows]) - r.logps(prompts, [row[side] for row in rows]))
        for side, sign in (("chosen", 1.0), ("rejected", -1.0))
    )
    return float(np.mean(np.logaddexp(0.0, -BETA * margin)))


def eval_loss(home, stage):
    return [r["eval_loss"] for r in read_metrics(home / "metrics.jsonl") if r["stage"] == stage and "eval_loss" in r][
        -1
    ]


@pytest.mark.parametrize("stage", ["online", "stored", "adapted"])
def test_the_loss_is_that_of_the_named_reference(folder, home, stage):
    policy = load_model(home / "stages" / stage)
    reference = load_model(folder / "other" if stage == "adapted" else home / "stages" / "sft")
    expected = held_out_loss(folder, policy, reference)
    assert eval_loss(home, stage) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - held_out_loss(folder, policy, load_model(folder / "start"))) > 1e-2


def test_stored_trains_as_online_does(home):
    a, b = (jax.tree.leaves(load_model(home / "stages" / name).params) for name in ("online", "stored"))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    assert len(list((home / "stages" / "stored" / "reference").iterdir())) == 2  # training and held-out files
    assert not (home / "stages" / "online" / "reference").exists()


def test_checkpoints_say_beside_which_networks_they_were_trained(folder, home):
    about = {
        name: CheckpointStore(home / "stages" / name / "checkpoints").meta() for name in ("online", "stored", "adapted")
    }
    sft, start, other = (
        fingerprint(load_model(path).params["model"])
        for path in (home / "stages" / "sft", folder / "start", folder / "other")
    )
    assert about["online"]["reference"] == about["stored"]["reference"] == sft
    assert (about["adapted"]["base"], about["adapted"]["reference"]) == (start, other)


def test_a_stage_is_not_resumed_beside_another_network(folder, home, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    moved = tmp_path / "moved" / "runs" / "run"
    shutil.rmtree(moved / "stages" / "adapted" / "model")
    (moved / "finished.json").unlink()
    run = dataclasses.replace(recipe(folder), output_dir=str(moved.parent))
    other = load_model(folder / "other")
    shutil.move(folder / "other", tmp_path / "kept")
    try:
        save_model(folder / "other", jax.tree.map(lambda x: x * 1.01, other.params), other.config, other.about)
        other.tokenizer.save(folder / "other" / "tokenizer")
        with pytest.raises(
            CheckpointError, match="trained beside another reference than the one found now; put that ref"
        ):
            execute(run)
    finally:
        shutil.rmtree(folder / "other")
        shutil.move(tmp_path / "kept", folder / "other")


def test_checkpoints_of_earlier_versions_say_nothing_of_a_reference():
    store = SimpleNamespace(directory="here", latest=lambda: 3, meta=lambda step: {"base": "b", "data": {}})
    same_beside(store, {"base": "b", "reference": "r"})
    with pytest.raises(
        CheckpointError, match="another base than the one found now; put the model that the stage starts"
    ):
        same_beside(store, {"base": "c"})


def test_values_are_recorded_as_they_are_computed(folder, tmp_path):
    model = load_model(folder / "other")
    head = init_params(value_table(model.config, std=0.5), jax.random.key(3))
    critic = FrozenNetwork({"model": model.params["model"], "value": head}, Scorer(model.config))
    data = Data(max_length=64, row_length=64, block_rows=1)
    mesh = make_mesh({}, jax.devices()[:1])
    dataset = prepare(
        [folder / "train.jsonl"], data=data, tokenizer=model.tokenizer, purpose="preference",
        needs=Needs(roles=("chosen", "rejected")), cache_dir=tmp_path, log=lambda line: None,
    )  # fmt: skip
    said = []
    with use_mesh(mesh, {}):
        loader = Loader(dataset, data, seed=0, rows_per_step=4)
        column = record_per_token(critic, "critic", "values", loader, tmp_path / "critic", mesh, said.append)
        batch = loader.reading(column).batch(0)
        expected = jax.jit(critic.scorer.values)(critic.params, put_batch(batch, mesh))
        np.testing.assert_allclose(batch.per_token["critic_values"], expected, atol=1e-5)
        again = record_per_token(critic, "critic", "values", loader, tmp_path / "critic", mesh, said.append)
    assert np.abs(expected).max() > 0.1
    assert [line.split(":")[0] for line in said] == ["critic values"] * 3  # computed once, checked twice
    assert column.directory == again.directory


def test_a_reference_of_another_vocabulary_is_named_before_the_first_stage(folder, tmp_path):
    foreign = train_tokenizer(["some other text"] * 4, 300)
    shutil.copytree(folder / "other", tmp_path / "foreign")
    shutil.rmtree(tmp_path / "foreign" / "tokenizer")
    foreign.save(tmp_path / "foreign" / "tokenizer")
    stage = recipe(folder).stages[1]
    setting = SimpleNamespace(
        run=SimpleNamespace(stages=()),
        config=lambda stage: load_model(folder / "start").config,
        inputs=SimpleNamespace(stages={}, tokenizer=load_model(folder / "start").tokenizer),
    )

    def check(source, loss=stage.loss):
        check_beside(setting, dataclasses.replace(stage, loss=loss, beside=(("reference", Beside(str(source))),)))

    check(folder / "other")
    with pytest.raises(ConfigError, match=r"reference .*foreign: it has another vocabulary: its tokenizer \("):
        check(tmp_path / "foreign")
    other = load_model(folder / "other")
    wide = dataclasses.replace(other.config, intermediate_size=48)
    save_model(tmp_path / "wide", other.params, wide, other.about)
    check(tmp_path / "wide")
    with pytest.raises(
        ConfigError, match=r"another architecture \(intermediate_size 48 and 32\), and the loss reads its"
    ):
        check(tmp_path / "wide", METHODS["sparsepo"]())
    with pytest.raises(CheckpointError, match="there is no folder"):
        check(tmp_path / "nowhere")
