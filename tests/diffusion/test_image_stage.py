"""Runs whose stages denoise: what they leave, what is refused before, interrupted as uninterrupted, images drawn."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from diffusion.tiny import DIT, UNET
from PIL import Image
from stages import process

from jaxpo.cli.generate_images import check_reward, reward_of
from jaxpo.cli.main import main
from jaxpo.config import Data, Denoise, ImageData, LoRA, Merge, Optimizer, Run, Tokenizer, Users
from jaxpo.config.noise import NoiseSchedule
from jaxpo.config.text_adapter import TextAdapter
from jaxpo.convert.model_io import load_model
from jaxpo.corpora.scenes.corpus import HELD_OUT, HELD_OUT_PAIRS, PAIRS, PEOPLE, STRANGERS, TRAIN, Scenes, tokenizer
from jaxpo.data.images.source import ImageSource
from jaxpo.data.tokenizer.tokenizer import Tokenizer as Words
from jaxpo.data.tokens.shards import ALONE
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.scenes import PeopleProbe, SceneProbe
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.denscore.config import DenscoreConfig
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.family import denoiser, param_table, preset
from jaxpo.models.spec import init_params, leaves
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.checks.denoise import beside_image_problems
from jaxpo.recipe.checks.origin import check_origin
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.lineage import declared_model, with_additions
from jaxpo.recipe.measured import DENOISING
from jaxpo.recipe.overrides import load_run
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages import run as running
from jaxpo.stages.abstract_batch import image_batch
from jaxpo.stages.added_parts import with_parts
from jaxpo.stages.denoising import empty_caption_lines
from jaxpo.stages.run_inputs import DATA_OF, RunInputs
from jaxpo.train.metrics import TIMING, read_metrics

MODEL = DiTConfig(
    sample_size=8,
    patch_size=4,
    in_channels=3,
    out_channels=3,
    num_layers=1,
    num_attention_heads=2,
    attention_head_dim=8,
    caption_channels=16,
    schedule=NoiseSchedule(parameterisation="velocity"),
    caption=CaptionConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_attention_heads=2, max_length=8, num_hidden_layers=0
    ),
)
COMMON = {"rows_per_step": 8, "max_steps": 3, "save_steps": 2, "eval_rows": 8}
ADAM = Optimizer(learning_rate=3e-3, adam_epsilon=1e-5)


def files(train, held_out):
    return Data(train=(f"corpus:{train}",), eval=(f"corpus:{held_out}",), max_length=8, row_length=8)


PRETRAIN = Denoise(
    name="pretrain",
    data=files(TRAIN, HELD_OUT),
    images=ImageData(flip=True),
    init_from="random",
    ema_decay=0.9,
    use_ema=True,
    optimizer=ADAM,
    **COMMON,
)
PREFER = Denoise(
    name="prefer",
    data=files(PAIRS, HELD_OUT_PAIRS),
    loss=METHODS["diffusion_dpo"](beta=200.0),
    lora=LoRA(rank=2, target_modules=("transformer_blocks/*/to_q/weight",)),
    optimizer=ADAM,
    **COMMON,
)


def recipe(folder, *stages, **changes):
    settings = {"name": "run", "export": False, "corpus": Scenes(scenes=16, held_out=8, pairs=12)}
    tokenizer = Tokenizer(path="corpus:tokenizer.json")
    return Run(output_dir=str(folder), model=MODEL, tokenizer=tokenizer, stages=stages, **settings | changes)


def finished(run, patch, devices=1):
    process.on_devices(patch, devices)
    assert running.execute(run) == 0
    return Path(run.output_dir) / run.name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return finished(recipe(tmp_path_factory.mktemp("whole"), PRETRAIN, export=True), patch)


def kept(folder):
    records = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in TIMING} for record in records]


def measured(folder, stage):
    return next(r for r in kept(folder) if r["stage"] == stage and "eval_loss" in r)


def same_models(one, other):
    models = (load_model(folder).params for folder in (one, other))
    jax.tree.map(np.testing.assert_array_equal, *models)


def test_a_stage_leaves_models_and_averages_and_measures_what_it_promises(whole):
    assert load_model(whole / "stages" / "pretrain").config == MODEL
    assert load_model(whole / "stages" / "pretrain" / "last").config == MODEL
    assert {f"eval_{name}" for name in DENOISING} <= set(measured(whole, "pretrain"))
    counts = json.loads((whole / "data_counts.json").read_text())
    assert counts["pretrain"]["kept"] == 16


class Cut(Exception):
    """An interruption that leaves no time for anything."""


def test_a_run_may_end_with_a_folder_of_diffusers(whole):
    exported = load_model(whole / "export")
    assert exported.config == MODEL
    assert exported.tokenizer.encode("red") == load_model(whole).tokenizer.encode("red")
    same_models(whole / "export", whole)


def test_a_run_that_was_cut_ends_bit_for_bit_as_one_that_was_not(whole, tmp_path, monkeypatch):
    run, opened = recipe(tmp_path, PRETRAIN), ImageSource.open

    class Feed:
        def __init__(self, feed):
            self.feed, self.left = feed, 2

        def next(self, state):
            self.left -= 1
            if self.left < 0:
                raise Cut
            return self.feed.next(state)

        def settle(self):
            self.feed.settle()

        def close(self):
            self.feed.close()

    with monkeypatch.context() as patch:
        patch.setattr(ImageSource, "open", lambda *args: Feed(opened(*args)))
        with pytest.raises(Cut):
            finished(run, patch)
    folder = finished(run, monkeypatch)
    same_models(folder / "stages" / "pretrain", whole / "stages" / "pretrain")
    assert kept(folder) == kept(whole)


@pytest.mark.slow  # test_image_objectives.py runs the steps so
def test_with_adapters_microbatches_and_devices_change_nothing(tmp_path, monkeypatch):
    folders = {}
    for parts, devices in ((1, 1), (2, 4)):
        stages = (dataclasses.replace(stage, gradient_accumulation_steps=parts) for stage in (PRETRAIN, PREFER))
        folders[parts] = finished(recipe(tmp_path / str(parts), *stages), monkeypatch, devices)
    for name in ("pretrain", "prefer"):
        one, two = (load_model(folder / "stages" / name).params for folder in folders.values())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, float(np.abs(a).max())))
    folder = folders[1]
    assert (folder / "stages" / "prefer" / "adapter").is_dir()
    assert {f"eval_{name}" for name in METHODS["diffusion_dpo"].METRICS} <= set(measured(folder, "prefer"))
    assert next(r for r in kept(folder) if r["stage"] == "prefer")["loss"] == pytest.approx(np.log(2), rel=1e-5)


def drawn(whole, out, *words):
    assert main(["generate", str(whole / "stages" / "pretrain"), *words, "--steps", "3", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    return rows, [np.asarray(Image.open(out / row["file"])) for row in rows]


def test_images_are_drawn_with_seeds_a_grid_and_rewards(whole, tmp_path, capsys):
    captions = ("red square top left. on black", "")
    rows, images = drawn(whole, tmp_path / "a", *captions, "--n", "2", "--score", "brightness", "--seed", "5")
    assert [(r["caption"], r["seed"]) for r in rows] == [(captions[i // 2], 5 + i) for i in range(4)]
    expected = [float(np.mean(image / 127.5 - 1)) for image in images]
    np.testing.assert_allclose([r["brightness"] for r in rows], expected, atol=0.01)
    assert "brightness: mean" in capsys.readouterr().out
    assert Image.open(tmp_path / "a" / "grid.png").size == (2 * 129 + 1, 2 * 129 + 1)
    _, again = drawn(whole, tmp_path / "b", captions[0], "--seed", "6")
    np.testing.assert_allclose(again[0].astype(int), images[1], atol=1)


def test_a_reward_of_images_is_tried_before_any_is_drawn(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def good(images, captions): return images.mean((1, 2, 3))\n"
        "def one(images, captions): return images.mean()\n"
        "def none(images, captions): raise KeyError('x')\n"
    )
    check_reward("g", reward_of(f"{file}:good"), (4, 4, 3))
    check_reward("brightness", reward_of("brightness"), (8, 8, 3))
    with pytest.raises(ConfigError, match=r"--score o: of two images it gave numbers \[\]; give one for each"):
        check_reward("o", reward_of(f"{file}:one"), (4, 4, 3))
    with pytest.raises(ConfigError, match="--score n: of two grey images it raised KeyError: 'x'"):
        check_reward("n", reward_of(f"{file}:none"), (4, 4, 3))


def test_a_negative_model_that_is_the_model_changes_nothing(whole, tmp_path, capsys):
    caption = "purple square top left. on black"
    _, plain = drawn(whole, tmp_path / "a", caption)
    assert f"warning: {caption!r}: a word of it is unknown" in capsys.readouterr().err
    _, beside = drawn(whole, tmp_path / "b", caption, "--negative", str(whole / "stages" / "pretrain"))
    np.testing.assert_allclose(beside[0].astype(int), plain[0], atol=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x",), "--out FOLDER"),
        (("x", "--out", "o", "--temperature", "1"), "--temperature: .* draws images and writes no text"),
        (("x", "--out", "o", "--guidance", "-1"), "--guidance is -1"),
        (("x", "--out", "o", "--n", "0", "--zoom", "0", "--segments", "0"), "--n must .*--segments must .*--zoom must"),
        (("x", "--out", "o", "--score", "britness"), "no such reward.*brightness"),
        (("--out", "o"), "give a caption"),
        (("x", "--out", "o", "--negative", "m", "--guidance", "1"), "guidance 1 asks the model alone"),
        (("x", "--out", "o", "--guide-users"), "--guide-users: there is no user"),
        (("x", "--out", "o", "--guide-users", "--guidance", "1"), "--guide-users: guidance 1 never asks"),
    ],
)
def test_options_that_cannot_be(whole, capsys, words, message):
    assert main(["generate", str(whole / "stages" / "pretrain"), *words]) == 2

    assert re.search(message, capsys.readouterr().err, re.S)


USERS = Users(tokens=2, width=8)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (dataclasses.replace(PRETRAIN, max_steps=None, max_tokens=100), "pretrain.max_tokens: images have none"),
        (
            dataclasses.replace(PRETRAIN, data=dataclasses.replace(PRETRAIN.data, truncation="prompt_left")),
            "pretrain.data.truncation: 'prompt_left'",
        ),
        (
            dataclasses.replace(PRETRAIN, data=dataclasses.replace(PRETRAIN.data, block_rows=2)),
            "pretrain.data.block_rows: is of rows of tokens",
        ),
        (dataclasses.replace(PRETRAIN, images=ImageData(segments=0)), "pretrain.images.segments: 0 must be at least 1"),
        (dataclasses.replace(PRETRAIN, model="nano"), "of the family 'lfm2'; a Denoise stage trains"),
        (
            dataclasses.replace(PREFER, loss=METHODS["ppd"](), images=ImageData(users=USERS), lora=None),
            "prefer.images.users.width: 8, and the model's attention to users reads none",
        ),
        (
            dataclasses.replace(PREFER, loss=METHODS["ppd"](), images=ImageData(users=USERS), lora=None),
            "prefer.train: everything would be trained",
        ),
        (
            dataclasses.replace(PREFER, loss=METHODS["ppd"](), images=ImageData(users=USERS), train=("model/*",)),
            "prefer.train: 'model/[*]' would be trained",
        ),
        (dataclasses.replace(PRETRAIN, add_users=True), "pretrain.add_users: the loss reads no users"),
        (
            dataclasses.replace(
                PRETRAIN,
                model=dataclasses.replace(MODEL, text_adapter=TextAdapter(4, 8)),
                add_text_adapter=TextAdapter(4, 4),
            ),
            r"pretrain.add_text_adapter: the model has another one, TextAdapter\(channels=4, intermediate_size=8",
        ),
        (dataclasses.replace(PREFER, loss=METHODS["dpo"]()), "prefer.loss: .*dpo"),
        (
            dataclasses.replace(
                PRETRAIN,
                loss=METHODS["self_npo"](),
                model=dataclasses.replace(MODEL, schedule=NoiseSchedule(zero_snr=True, parameterisation="velocity")),
            ),
            "self_npo samples from the last time, at which the model's schedule leaves nothing",
        ),
        (
            dataclasses.replace(PRETRAIN, loss=METHODS["longalign"](sampler_steps=25, kept_steps=4)),
            "kept_steps 4 does not divide sampler_steps 25",
        ),
        (
            dataclasses.replace(PRETRAIN, sync_ref_model=True, loss=METHODS["denoising"]()),
            "no reference that could move",
        ),
        (
            dataclasses.replace(PREFER, images=ImageData(ties="keep")),
            "prefer.images.ties: 'keep', and diffusion_dpo reads no rewards",
        ),
        (
            dataclasses.replace(PREFER, loss=METHODS["smpo_diffusion"](grid="code")),
            "prefer.loss.inversion_steps: 9 does not divide the 1000 times",
        ),
        (
            dataclasses.replace(PREFER, loss=METHODS["inpo_ddim"](inversion_steps=1001)),
            "prefer.loss.inversion_steps: 1001, and the model's schedule has 1000 times",
        ),
        (
            dataclasses.replace(PRETRAIN, loss=METHODS["self_npo"](sampler_steps=1001)),
            "pretrain.loss.sampler_steps: 1001",
        ),
        (
            dataclasses.replace(PRETRAIN, loss=METHODS["longalign"]()),
            "pretrain.beside.reward.source: of the family 'dit', which does not say how well",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, stage, message):

    problems = "\n".join(find_problems(recipe(tmp_path, stage)))
    assert re.search(message, problems), problems


NOISE = NoiseSchedule(beta_start=0.00085, beta_end=0.012)


@pytest.mark.parametrize(
    ("theirs", "part", "message"),
    [
        (dataclasses.replace(MODEL, schedule=NOISE, user_channels=8), "denoise", None),
        (dataclasses.replace(MODEL, schedule=NoiseSchedule("cosine")), "denoise", "its schedule is .*cosine"),
        (dataclasses.replace(MODEL, sample_size=16), "denoise", "its sample_size is 16, and that .* is 8"),
        (DenscoreConfig(), "denoise", "denscore"),
        (DenscoreConfig(), "towers", None),
        (DenscoreConfig(in_channels=4), "towers", "its in_channels is 4"),
    ],
)
def test_a_network_beside_a_model_of_images_sees_the_same_noisy_images(theirs, part, message):
    problems = list(beside_image_problems(MODEL, theirs, part))
    assert not problems if message is None else re.search(message, problems[0])


def test_an_empty_caption_of_zeros_is_said_where_it_is_read():
    dropping, none = METHODS["denoising"](), METHODS["denoising"](caption_dropout=0.0)
    assert "one state of zeros" in empty_caption_lines("pretrain", dropping, 3)[0]
    assert METHODS["self_npo"](teacher_w=-1.0).reads_empty
    assert not [line for given in ((dropping, 0), (none, 3)) for line in empty_caption_lines("pretrain", *given)]


def test_the_noise_of_a_model_without_an_image_at_its_last_time_is_refused():
    with pytest.raises(ConfigError, match="at the last time nothing is left of the image"):
        NoiseSchedule(zero_snr=True, parameterisation="noise")


def data_of(stage, config, folder):
    return DATA_OF["denoise"](stage, Words(tokenizer()), config, folder, lambda line: None, ALONE)


def test_states_of_texts_are_read_at_the_width_of_either_family(tmp_path):
    row = {"latent": np.zeros((4, 8, 8)).tolist(), "scale": 0.18215, "states": [[0.5] * 12]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    stage = dataclasses.replace(PRETRAIN, data=Data(train=(str(tmp_path / "rows.jsonl"),)))
    for config in (DIT, UNET):
        assert data_of(stage, config, tmp_path).train.states == 1
    longalign = dataclasses.replace(stage, loss=METHODS["longalign"](), images=ImageData(segments=2))
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: has no caption, and longalign reads words, beside the"):
        data_of(longalign, UNET, tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"caption": "red. blue."}) + "\n")
    data = dataclasses.replace(longalign.data, max_length=5)
    both = data_of(dataclasses.replace(longalign, data=data), UNET, tmp_path).train
    found = ImageSource(both, seed=0, rows_per_step=1).batch(0)
    assert (found.tokens.shape, found.states.shape, found.states_mask.shape) == ((1, 2, 5), (1, 1, 12), (1, 1))
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    for name, width in (("stable_diffusion_1_5", 768), ("pixart_sigma_512", 4096)):
        assert image_batch(stage, preset(name), mesh).states.shape == (8, stage.data.max_length, width)


def test_methods_that_draw_their_own_images_are_given_captions_alone(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"caption": "red square"}) + "\n")
    data = Data(train=(str(tmp_path / "rows.jsonl"),), max_length=8, row_length=8)
    stage = dataclasses.replace(PRETRAIN, data=data)
    for name, options in (("longalign", {}), ("self_npo", {"start": "noise"})):
        loss = METHODS[name](**options)
        assert loss.NEEDS.roles == ("caption",)
        assert len(data_of(dataclasses.replace(stage, loss=loss), MODEL, tmp_path).train) == 1
    for name in ("denoising", "self_npo"):
        with pytest.raises(DataError, match=rf"row 1: holds captions alone .*, and {name} reads single images"):
            data_of(dataclasses.replace(stage, loss=METHODS[name]()), MODEL, tmp_path)


PERSONAL = Denoise(
    name="ppd",
    data=files(PEOPLE, STRANGERS),
    loss=METHODS["ppd"](beta=200.0),
    images=ImageData(users=Users(support=2, tokens=2, width=8)),
    add_users=True,
    train=("*/to_k_user/*", "*/to_v_user/*"),
    optimizer=ADAM,
    **COMMON,
)


@pytest.mark.slow  # a run; that the branch changes nothing is seen below
def test_users_are_added_to_a_model_that_was_trained_without(whole, tmp_path, monkeypatch):
    corpus = Scenes(scenes=8, held_out=8, pairs=8, people=1, choices=6)
    start = whole / "stages" / "pretrain"
    later = dataclasses.replace(PERSONAL, name="later", add_users=False)
    run = recipe(tmp_path, PERSONAL, later, model_from=str(start), corpus=corpus, export=True)
    folder = finished(run, monkeypatch)
    before, after = load_model(start), load_model(folder / "stages" / "later")
    assert after.config == dataclasses.replace(MODEL, user_channels=8) == load_model(folder / "export").config
    own = dict(leaves(param_table(before.config)))
    for path, leaf in leaves(after.params["model"]):
        if path in own:
            np.testing.assert_array_equal(leaf, dict(leaves(before.params["model"]))[path])
        elif "to_v_user" in path:
            assert np.abs(leaf).max() > 0
    same_models(folder / "export", folder)
    first = next(r for r in kept(folder) if r["stage"] == "ppd")
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-5)


def test_the_branch_of_users_changes_nothing_at_first():
    model = init_params(param_table(MODEL), jax.random.key(1))
    model = jax.tree.map(lambda x: x + 0.05, model)
    config = with_additions(MODEL, PERSONAL)
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    with use_mesh(mesh):
        added = with_parts(model, config, 0, mesh)
        again = with_parts(added, config, 1, mesh)
    jax.tree.map(np.testing.assert_array_equal, again, added)
    x, t = np.cos(np.arange(192.0)).reshape(1, 8, 8, 3), np.array([500])
    context, user = np.sin(np.arange(48.0)).reshape(1, 3, 16), np.ones((1, 2, 8))
    plain, personal = (jax.jit(functools.partial(denoiser(c), config=c)) for c in (MODEL, config))
    alone = plain(model, x, t, context)
    np.testing.assert_allclose(personal(added, x, t, context, user=user), alone, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(personal(added, x, t, context), alone)
    assert with_additions(config, dataclasses.replace(PERSONAL, images=ImageData())) == config
    assert with_additions(MODEL, PRETRAIN) == MODEL


def test_what_a_stage_adds_the_later_ones_have(tmp_path):
    """Those that start from it, from one that did, or from a merge of such; not one that goes on from before it."""
    after = dataclasses.replace(PERSONAL, add_users=False)
    merge = Merge(name="mean", models=("ppd", "next"))
    stages = (
        PRETRAIN, PERSONAL, dataclasses.replace(after, name="next"), merge, dataclasses.replace(after, name="last"),
        dataclasses.replace(PREFER, name="aside", init_from="pretrain"),
    )  # fmt: skip
    run = recipe(tmp_path, *stages)
    assert [declared_model(run, s).user_channels for s in stages] == [0, 8, 8, 8, 8, 0]
    assert list(find_problems(run, files=False)) == []
    with_adapter = dataclasses.replace(PRETRAIN, name="two", add_text_adapter=TextAdapter(channels=8))
    run = recipe(tmp_path, PRETRAIN, with_adapter, dataclasses.replace(PRETRAIN, name="three", init_from="two"))
    assert declared_model(run, run.stages[2]).text_adapter == TextAdapter(channels=8)
    fresh = dataclasses.replace(after, name="fresh", init_from="random")
    problems = list(find_problems(recipe(tmp_path, PRETRAIN, PERSONAL, fresh), files=False))
    assert any("fresh.images.users.width: 8, and the model's attention to users reads none" in p for p in problems)


@pytest.mark.parametrize("probe", [SceneProbe(), PeopleProbe(Users(support=2, tokens=2, width=8))])
def test_a_probe_that_could_not_draw_is_refused_before_a_run(tmp_path, probe, monkeypatch):
    """Of words it can draw with none of these models; people alone are measured where the model knows them."""
    one = dataclasses.replace(PRETRAIN, name="one")
    two = dataclasses.replace(PRETRAIN, name="two", init_from="previous", add_text_adapter=TextAdapter(channels=8))
    known = dataclasses.replace(MODEL, user_channels=8)
    run = dataclasses.replace(recipe(tmp_path, one, two, probes=(probe,)), model=known)
    found = [p for p in find_problems(run, files=False) if p.startswith("probes[0]")]
    assert len(found) == 1
    assert re.search(r"after 'two': the model reads the states of a second text encoder", found[0])
    monkeypatch.setattr("jaxpo.recipe.checks.origin.config_of_origin", lambda run: known)
    started = dataclasses.replace(run, model_from="somewhere", stages=(dataclasses.replace(two, name="alone"),))
    with pytest.raises(ConfigError, match=r"probes\[0\]: \w+ after 'alone': the model reads the states"):
        check_origin(started)
    blind = dataclasses.replace(known, caption=None, in_channels=4, out_channels=4)
    assert ["no text tower" in p or "4 channels" in p for p in probe.problems(blind)] == [True, True]
    assert list(PeopleProbe(Users(width=8)).problems(dataclasses.replace(blind, user_channels=0))) == []


def test_captions_longer_than_the_text_tower_are_refused_before_they_are_read(tmp_path):
    stage = dataclasses.replace(PRETRAIN, data=Data(train=("corpus:none.jsonl",)))
    with pytest.raises(ConfigError, match=r"pretrain.data.max_length=1024 exceeds the 8 tokens that the model's text"):
        data_of(stage, MODEL, tmp_path)


def test_held_out_images_of_a_stage_that_waits_are_looked_at_before_anything_runs(tmp_path):
    inputs = RunInputs(tmp_path, print, Words(tokenizer()), MODEL)
    for name, row in (("one", {"image": "a.png"}), ("two", {"chosen_image": "a.png", "rejected_image": "b.png"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | {"caption": "x"}) + "\n")
    one, two = (Data(train=("stage:x/y.jsonl",), eval=(str(tmp_path / f"{name}.jsonl"),)) for name in ("one", "two"))
    inputs.foresee(dataclasses.replace(PRETRAIN, data=one))
    inputs.foresee(dataclasses.replace(PREFER, data=two))
    with pytest.raises(DataError, match=r"two.jsonl, row 1: holds pairs \(pairs\), and denoising reads single images"):
        inputs.foresee(dataclasses.replace(PRETRAIN, data=two))


SMALL = {
    "self_npo": {"scenes": 16, "held_out": 8, "pairs": 8},
    "ppd": {"scenes": 16, "held_out": 8, "pairs": 8, "people": 1, "choices": 6},
    "longalign": {"scenes": 8, "held_out": 8, "pairs": 8, "long": 16},
}
FIGURES = {
    "self_npo": {"scenes/adherence", "scenes/brightness", "scenes/wins", "scenes/error"},
    "ppd": {"people/bright", "people/dark", "people/left", "people/right", "people/wins"},
    "longalign": {"scenes/wins"},
}


@pytest.mark.slow  # several stages each
@pytest.mark.parametrize("name", SMALL)
def test_the_variants_of_the_recipe_run_and_are_measured(name, tmp_path, monkeypatch):
    run = load_run(f"diffusion:{name}")
    short = {"max_steps": 2, "rows_per_step": 8, "eval_rows": 8, "eval_steps": 0}
    stages = tuple(
        dataclasses.replace(stage, **short, optimizer=dataclasses.replace(stage.optimizer, warmup_steps=0))
        for stage in run.stages
    )
    probes = tuple(dataclasses.replace(probe, captions=4, steps=2) for probe in run.probes)
    tiny = dataclasses.replace(MODEL, user_channels=run.model.user_channels)
    corpus = dataclasses.replace(run.corpus, **SMALL[name])
    changes = {"model": tiny, "corpus": corpus, "stages": stages, "probes": probes, "output_dir": str(tmp_path)}
    folder = finished(dataclasses.replace(run, **changes), monkeypatch)
    last = json.loads((folder / "summary.json").read_text())["probes"][stages[-1].name]
    assert FIGURES[name] <= set(last)
    assert all(np.isfinite(value) for value in last.values())
    page = (folder / "report.html").read_text()
    assert f"samples after {stages[-1].name}" in page
    assert page.count("data:image/png;base64,") >= 2
