"""Features of images made once by a fixed tower: those of every step, kept through kills, refused where they move."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.vision.test_rows import DATA, SHAPES, SIZES, TOKENIZER, config
from PIL import Image

from jaxpo.config import QAT, SFT, Beside, Compute, Images, LoRA, Optimizer, Preference, Run, Tokenizer
from jaxpo.config.serialise import to_jsonable
from jaxpo.data.media.features import INDEX, VALUES, Features
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import ConfigError, DataError
from jaxpo.models.family import param_table
from jaxpo.models.lfm2_vl.config import FEATURES, IMAGE
from jaxpo.models.paths import cut, split_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.recipe.resume import compare
from jaxpo.sharding import make_mesh, put_batch, use_mesh
from jaxpo.stages import features as made
from jaxpo.stages.assemble import make_objective, own_tables
from jaxpo.stages.features import Making, reading
from jaxpo.stages.run import execute
from jaxpo.stages.trained import check_patterns
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

CACHED = dataclasses.replace(DATA, images=Images(sizes=SIZES, cached=True))
PARTS = ("model/connector/*", "model/layers/*")
MESH = make_mesh({}, jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve rows with four images, of which one is cut into tiles, some in several rows, one as bytes."""
    folder = tmp_path_factory.mktemp("features")
    for i, shape in enumerate(SHAPES):
        noise = np.random.default_rng(i).integers(0, 255, (*shape, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    rows = [{"prompt": f"{i}?", "completion": f"a{i}", "images": [f"{i % 4}.png"] * (i % 3)} for i in range(12)]
    rows = [row if row["images"] else {k: v for k, v in row.items() if k != "images"} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def params():
    drawn = init_params(param_table(config()), jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


def loader_of(folder, data=DATA, name="rows.jsonl"):
    dataset = prepare(
        [folder / name], data=data, tokenizer=TOKENIZER, purpose="sft", needs=Needs(roles=()),
        cache_dir=folder / "cache", log=lambda line: None,
    )  # fmt: skip
    return Loader(dataset, data, seed=0, rows_per_step=8)


def features_of(loader, params, folder, said=None, dtype="float32"):
    making = Making(Scorer(config(), dtype), params, MESH, loader.caps.media_length)
    with use_mesh(MESH):
        return making.features(loader.dataset, folder, (lambda line: None) if said is None else said.append)


def one_step(params, batch, stage):
    """Loss and gradient of a step of plain descent of rate 1, of what the stage trains."""
    objective, tables = make_objective(stage, Scorer(config())), own_tables(stage, config())
    trained, fixed = split_table(tables, stage.train)
    frozen = {FIXED: cut(fixed, {"model": params})}
    if isinstance(stage, Preference):
        frozen["reference"] = params
    state = build_state(cut(trained, {"model": params}), optax.sgd(1.0), objective, jax.random.key(0))
    step = jax.jit(make_step(objective, optax.sgd(1.0), optax.constant_schedule(1.0), microbatches=1))
    with use_mesh(MESH):
        new, metrics = step(state, frozen, put_batch(batch, MESH))
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, new.params)
    return float(metrics["loss"].value()), moved


def test_loss_and_gradients_are_those_of_a_tower_that_runs(folder, params, tmp_path):
    loader, said = loader_of(folder), []
    features = features_of(loader, params, tmp_path, said)
    assert said[0] == "features of images: 4 to compute, 0 are there"
    cached = reading(loader, features)
    plain, read = loader.batch(0), cached.batch(0)
    assert (set(plain.media), set(read.media)) == ({IMAGE}, {FEATURES})
    assert read.media[FEATURES].values.shape == (*plain.media[IMAGE].values.shape[:2], config().vision.hidden_size)
    stage = SFT(train=PARTS)
    (loss, moved), (wanted, gradient) = (one_step(params, batch, stage) for batch in (read, plain))
    assert loss == pytest.approx(wanted, rel=1e-6)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * max(np.abs(b).max(), 1))
    assert max(np.abs(x).max() for x in jax.tree.leaves(moved["model"]["connector"])) > 1e-3
    # A second time nothing is computed, whatever else reads them.
    said.clear()
    features_of(loader, params, tmp_path, said)
    assert len(said) == 1


def test_computed_in_bfloat16_they_are_kept_so(folder, params, tmp_path):
    loader = loader_of(folder)
    features = features_of(loader, params, tmp_path, dtype="bfloat16")
    assert features.dtype == jnp.bfloat16
    scorer = Scorer(config(), "bfloat16")
    score = jax.jit(lambda batch: scorer.logps(params, batch))
    np.testing.assert_allclose(score(reading(loader, features).batch(0)), score(loader.batch(0)), atol=0.05)


def test_what_is_there_outlives_a_kill_and_damage_is_made_again(folder, params, tmp_path, monkeypatch):
    """Parts of an image each; the process ends while the third is written."""
    monkeypatch.setattr(made, "PART_PATCHES", 1)
    monkeypatch.setattr(made, "PATCHES", 1)
    loader, said = loader_of(folder), []
    whole = features_of(loader, params, tmp_path / "whole")
    add, written = Features.add, []

    def dying(self, found):
        if len(written) == 2:
            (self.directory / f"half{VALUES}").write_bytes(b"\0" * 7)
            raise KeyboardInterrupt
        written.append(add(self, found))

    monkeypatch.setattr(Features, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        features_of(loader, params, tmp_path / "cut")
    monkeypatch.setattr(Features, "add", add)
    again = features_of(loader, params, tmp_path / "cut", said)
    assert said[0] == "features of images: 2 to compute, 2 are there"
    same_content(whole, again)
    # A flipped bit, and an index that was cut.
    first, second = sorted(again.directory.glob(f"*{INDEX}"))[:2]
    values = first.with_suffix(VALUES)
    values.write_bytes(bytes([values.read_bytes()[0] ^ 1]) + values.read_bytes()[1:])
    second.write_text(second.read_text()[:-9])
    said.clear()
    mended = features_of(loader, params, tmp_path / "cut", said)
    assert [line for line in said if "is not as it was written" in line] == said[:2]
    assert said[2] == "features of images: 2 to compute, 2 are there"
    same_content(whole, mended)


def same_content(a, b):
    assert a._at.keys() == b._at.keys()
    for name in a._at:
        np.testing.assert_array_equal(a.get(name), b.get(name))


def test_they_belong_to_tower_sizes_and_type(folder, params, tmp_path):
    """Another language model sees with the same tower; another tower, other sizes and another type do not."""
    loader = loader_of(folder)
    first = features_of(loader, params, tmp_path)
    assert features_of(loader, {**params, "embed_tokens": {"weight": jnp.zeros((4, 4))}}, tmp_path).key == first.key
    changed = jax.tree.map(lambda x: x, params)
    changed["vision"]["post_layernorm"]["bias"] = changed["vision"]["post_layernorm"]["bias"] + 1e-3
    sizes = dataclasses.replace(SIZES, max_image_tokens=3)
    other = loader_of(folder, dataclasses.replace(DATA, images=Images(sizes=sizes)))
    keys = {first.key, features_of(loader, changed, tmp_path).key, features_of(other, params, tmp_path).key}
    keys.add(features_of(loader, params, tmp_path, dtype="bfloat16").key)
    assert len(keys) == len(list(tmp_path.iterdir())) == 4


def test_broken_images_are_left_out_alike(tmp_path, params):
    """By their pixels: the header is whole."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    rows = [{"prompt": "1?", "completion": "a", "images": [f"{name}.png"]} for name in ("good", "bad")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"rows\.jsonl.*row 2.*image 0"):
        features_of(loader_of(tmp_path), params, tmp_path / "features")
    data = dataclasses.replace(DATA, images=Images(sizes=SIZES, on_bad_image="skip"))
    loader = loader_of(tmp_path, data)
    features = features_of(loader, params, tmp_path / "features")
    assert len(features) == 1
    plain, read = loader.batch(0), reading(loader, features).batch(0)
    np.testing.assert_array_equal(plain.example_id, read.example_id)
    assert set(plain.example_id.tolist()) == {0, -1}
    # A whole image beside a broken one is another row's, too.
    rows = [{"prompt": "1?", "completion": "a", "images": shown} for shown in (["good.png", "bad.png"], ["good.png"])]
    (tmp_path / "shared.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loader = loader_of(tmp_path, data, "shared.jsonl")
    features = features_of(loader, params, tmp_path / "shared")
    assert set(reading(loader, features).batch(0).example_id.tolist()) == {1, -1}


def test_a_file_that_is_gone_is_named_with_its_row(tmp_path, params, monkeypatch):
    """Of rows that an earlier version tokenised, whose images have no digest and are read to be known."""
    Image.fromarray(np.zeros((*SHAPES[0], 3), np.uint8)).save(tmp_path / "0.png")
    row = {"prompt": "a?", "completion": "b", "images": ["0.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    loader = loader_of(tmp_path)
    kind, read = type(loader.dataset.store), loader.dataset.store.read

    def earlier(self, numbers):
        for example in read(numbers):
            pictures = tuple(dataclasses.replace(x, digest=b"") for x in example.pictures)
            yield dataclasses.replace(example, pictures=pictures)

    monkeypatch.setattr(kind, "read", earlier)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1, field 'images': image 0: .*no such file.* skip"):
        features_of(loader, params, tmp_path / "features")


def test_features_that_somebody_took_away_are_told(folder, tmp_path):
    empty = Features(tmp_path / "empty", "key", config().vision.hidden_size, "float32")
    with pytest.raises(DataError, match=r"holds no features of it.*Start the run again"):
        reading(loader_of(folder), empty).batch(0)


STAGE = SFT(name="answers", data=dataclasses.replace(CACHED, train=("rows.jsonl",)), train=PARTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": ("*",)}, r"answers.data.images.cached: the encoder is trained \(\d+ arrays, such as model/vision/"),
        ({"train": ("model/vision/post*",)}, r"the encoder is trained \(2 arrays.*--answers.train"),
        ({"train": ("*",), "lora": LoRA(rank=1)}, r"the adapter reaches into the encoder.*target-modules"),
        ({"train": ("*",), "lora": LoRA(rank=1, target_modules=("vision/layers/*_proj/weight",))}, "reaches into"),
        ({"train": ("*",), "lora": LoRA(rank=1, target_modules=("layers/*proj/weight",))}, None),
        ({}, None),
        ({"qat": QAT()}, "rounds the encoder"),
        ({"data": dataclasses.replace(DATA, train=("rows.jsonl",)), "train": ("*",)}, None),
    ],
)
def test_where_they_would_not_be_those_of_the_tower(change, said):
    run = Run(model=config(), stages=(dataclasses.replace(STAGE, **change),))
    if said is None:
        check_patterns(run)
        return
    with pytest.raises(ConfigError, match=said):
        check_patterns(run)


def test_another_network_and_a_model_that_sees_nothing_are_refused(tmp_path):
    beside = (("reference", Beside(source="/models/other")),)
    stage = Preference(data=STAGE.data, train=PARTS, loss=DPO(), beside=beside)
    with pytest.raises(ConfigError, match=r"reference \(/models/other\) may see images through another encoder"):
        check_patterns(Run(model=config(), stages=(stage,)))
    with pytest.raises(ConfigError, match="'lfm2' has no encoder of images"):
        check_patterns(Run(model=config().text, stages=(dataclasses.replace(STAGE, train=("*",)),)))


def test_a_run_may_go_on_with_or_without_them(folder):
    """The rows are the same, and what is computed but for rounding."""
    assert loader_of(folder, CACHED).dataset.hash == loader_of(folder).dataset.hash
    plain = dataclasses.replace(STAGE, data=dataclasses.replace(DATA, train=("rows.jsonl",)))
    before, after = (Run(model=config(), stages=(stage,)) for stage in (plain, STAGE))
    changes = compare(to_jsonable(before), after)
    assert changes.refused == ()
    assert "cached" in changes.said[0]


@pytest.mark.slow
def test_a_run_trains_as_without_them(folder, tmp_path, capsys):
    """Both parts of the rows, through `jaxpo run`'s own way; every logged loss, and held-out loss."""
    found = {}
    for name, data in (("plain", DATA), ("cached", CACHED)):
        data = dataclasses.replace(data, train=(str(folder / "rows.jsonl"),), eval=(str(folder / "rows.jsonl"),))
        stage = SFT(
            name="answers", data=data, train=PARTS, rows_per_step=8, max_steps=4, logging_steps=1, eval_steps=4,
            optimizer=Optimizer(learning_rate=1e-2, warmup_steps=0), init_from="random",
        )  # fmt: skip
        TOKENIZER.save(tmp_path / "tokenizer")
        run = Run(
            name=name, output_dir=str(tmp_path), model=config(), stages=(stage,), export=False, prompts=(),
            compute=Compute(remat="auto"), tokenizer=Tokenizer(path=str(tmp_path / "tokenizer")),
        )  # fmt: skip
        assert execute(run) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found[name] = [json.loads(line) for line in lines]
    said = capsys.readouterr().out
    assert "features of images: 4 to compute, 0 are there" in said
    assert "compute.remat auto: 'none'" in said
    for key in ("loss", "eval_loss", "grad_norm"):
        plain, cached = ([row[key] for row in found[name] if key in row] for name in ("plain", "cached"))
        assert plain
        assert cached == pytest.approx(plain, rel=1e-5)
    tflops = [next(row["tflops"] / row["tokens_per_second"] for row in found[n] if "tflops" in row) for n in found]
    assert tflops[0] > 1.02 * tflops[1]
