"""What a stage trains: patterns refused before any work, what is printed and counted, a run that resumes with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages.process import finish, start

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import SFT, LoRA, Muon, Optimizer, Preference, Pretrain, Reward, Routing, Stage
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.family import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params, leaves, param_count
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import resolve_run
from jaxpo.stages.adapter import load_adapter
from jaxpo.stages.assemble import own_tables
from jaxpo.stages.beside import same_beside
from jaxpo.stages.trained import (
    check_heads,
    check_patterns,
    factor_problems,
    flops_per_token,
    heads_before,
    part_lines,
    train_problems,
)
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.metrics import TIMING, read_metrics

NANO, MOE = preset("nano"), preset("nano_moe")


def with_factors(*factors: tuple[str, float]) -> Optimizer:
    return Optimizer(lr_factors=factors)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (SFT(train=("*",)), []),
        (SFT(train=("model/layers/0/*", "*norm/weight")), []),
        (SFT(train=("layers/*",)), ["sft.train: 'layers/*' matches no parameter. Did you mean 'model/layers/*'"]),
        (
            SFT(train=("model/layers/*", "value/*")),
            ["sft.train: 'value/*' matches no parameter. There are 'model/*', 'model/embed_tokens/*',"],
        ),
        (SFT(train=()), ["sft.train: nothing would be trained; give patterns such as 'model/layers/0/*', or '*'."]),
        (Reward(train=("value/*",)), []),
        (
            Reward(train=("model/*",)),
            ["reward.train: nothing of the head 'value', which the loss trains from scratch, matches; add 'value/*'."],
        ),
        (SFT(lora=LoRA(), train=("adapter/*/b",)), []),
        (SFT(lora=LoRA(), train=("model/*",)), ["sft.train: 'model/*' matches no parameter."]),
        (
            Preference(loss=METHODS["spo_degree"](), sync_ref_model=True, train=("degree/*",)),
            ["preference.train: the model would be fixed, and sync_ref_model moves the reference after it; leave one"],
        ),
        (
            Pretrain(train=("model/layers/*/gate/*",)),
            ["pretrain.train: model/layers/2/feed_forward/expert_bias/bias is fixed, but routing biases are to be"],
        ),
        (Pretrain(train=("*/gate/*", "*/expert_bias/bias")), []),
        (
            SFT(train=("*/expert_bias/bias",), routing=Routing()),
            ["sft.train: nothing would be trained; give patterns such as"],
        ),
        (SFT(optimizer=with_factors(("model/embed_tokens/*", 5.0), ("model/layers/*", 0.1))), []),
        (
            SFT(optimizer=with_factors(("embed_tokens/*", 5.0))),
            ["sft.optimizer.lr_factors: 'embed_tokens/*' matches no parameter. Did you mean 'model/embed_tokens/*'"],
        ),
        (
            SFT(optimizer=with_factors(("model/embed_tokens/*", 5.0)), train=("model/layers/*",)),
            ["sft.optimizer.lr_factors: 'model/embed_tokens/*' matches only what --sft.train leaves fixed; leave it"],
        ),
        (
            SFT(optimizer=with_factors(("model/*", 5.0), ("model/layers/*", 0.1))),
            ["sft.optimizer.lr_factors: all that 'model/layers/*' matches is taken by an earlier pattern; put it"],
        ),
    ],
)
def test_patterns(stage: Stage, expected: list[str]) -> None:
    """Refused: what matches nothing, what would train nothing, what a stage cannot leave fixed."""
    config = MOE if "gate" in str(stage.train) or "bias" in str(stage.train) or stage.name == "pretrain" else NANO
    tables = own_tables(stage, config)
    found = [*train_problems(stage, tables, config), *factor_problems(stage, tables)]
    assert len(found) == len(expected), found
    for got, begins in zip(found, expected, strict=True):
        assert got.startswith(begins), got


def test_a_head_that_the_model_brings_may_stay(recipe: Any) -> None:
    """A recipe shows what an earlier stage leaves; of a folder that is seen when the model is there."""
    sft = recipe.stages[0]
    pal = METHODS["pal"](users=("a", "b"), size=4)
    first = Reward(name="first", loss=pal, data=sft.data, max_steps=1)
    newcomer = dataclasses.replace(pal, users=("c",))
    new = Reward(name="new", init_from="first", loss=newcomer, train=("users/*",), data=sft.data, max_steps=1)
    run = dataclasses.replace(recipe, stages=(sft, first, new))
    tables = own_tables(new, NANO)
    assert sorted(heads_before(run, new, tables, NANO)) == ["projector", "prototypes"]
    wider = dataclasses.replace(new, loss=dataclasses.replace(newcomer, size=5))
    run = dataclasses.replace(recipe, stages=(sft, first, wider))
    assert heads_before(run, wider, own_tables(wider, NANO), NANO) == ["prototypes"]
    other = dataclasses.replace(new, init_from="previous")
    run = dataclasses.replace(recipe, stages=(first, sft, other))
    assert heads_before(run, other, own_tables(other, NANO), NANO) == []
    alone = dataclasses.replace(new, init_from="runs/elsewhere")
    run = dataclasses.replace(recipe, stages=(alone,))
    assert heads_before(run, alone, tables, NANO) == tables.keys() - {"model"}
    base = {name: init_params(table, jax.random.key(0)) for name, table in own_tables(first, NANO).items()}
    check_heads(new, tables, base)
    with pytest.raises(ConfigError, match="nothing of the head 'projector'"):
        check_heads(wider, own_tables(wider, NANO), base)


def test_all_stages_are_checked_together_and_before_anything(recipe: Any) -> None:
    pretrain, sft, *rest = recipe.stages
    check_patterns(recipe)
    bad = dataclasses.replace(pretrain, train=("layers/*",)), dataclasses.replace(sft, lora=LoRA(target_modules=("x",)))
    with pytest.raises(ConfigError) as caught:
        check_patterns(dataclasses.replace(recipe, stages=(*bad, *rest)))
    assert [p.split(":")[0] for p in caught.value.problems] == ["pretrain.train", "sft.lora.target_modules"]


@pytest.mark.parametrize("factor", [-1.0, 0.0, float("inf"), float("nan")])
def test_factors_that_are_none(recipe: Any, factor: float) -> None:
    pretrain, *rest = recipe.stages
    bad = dataclasses.replace(pretrain, optimizer=with_factors(("model/*", factor)))
    problems = list(find_problems(dataclasses.replace(recipe, stages=(bad, *rest))))
    assert any(p.startswith("pretrain.optimizer.lr_factors: ") for p in problems), problems


def test_both_are_fields_of_the_command_line(recipe: Any) -> None:
    words = ["--sft.train", "model/layers/*", "*norm/weight", "--sft.optimizer", "muon"]
    words += ["--sft.optimizer.lr-factors", "model/layers/0/*", "0.5", "*norm/weight", "3"]
    sft = resolve_run(recipe, words).run.stages[1]
    assert sft.train == ("model/layers/*", "*norm/weight")
    assert sft.optimizer == Muon(lr_factors=(("model/layers/0/*", 0.5), ("*norm/weight", 3.0)))


def test_the_count_is_of_what_is_trained() -> None:
    stage = SFT(train=("model/layers/0/*", "*norm/weight"))
    sizes = {f"model/{path}": p.size for path, p in leaves(param_table(NANO))}
    first = sum(n for path, n in sizes.items() if path.startswith("model/layers/0/"))
    norms = {path: n for path, n in sizes.items() if path.endswith("norm/weight")}
    both = first + sum(n for path, n in norms.items() if not path.startswith("model/layers/0/"))
    one, two, total = part_lines(stage, own_tables(stage, NANO))
    assert f" {first:,} parameters" in one
    assert two == f"train '*norm/weight': {len(norms)} arrays, {sum(norms.values()):,} parameters"
    assert total.startswith(f"train: {both:,} of {param_count(param_table(NANO)):,} parameters, ")
    assert part_lines(SFT(), own_tables(SFT(), NANO)) == []


def test_operations_of_a_part() -> None:
    """The whole costs three forward passes; what is fixed and what lies below cost fewer."""
    config, context = NANO, 50.0
    count = lambda *train: flops_per_token(SFT(train=train), config, context)  # noqa: E731
    whole, forward = count("*"), training_flops_per_token(config, context) / 3
    assert whole == 3 * forward
    table = dict(leaves(param_table(config)))
    matrices = lambda start: sum(p.size for n, p in table.items() if n.startswith(start) and len(p.shape) > 1)  # noqa: E731
    last = config.num_hidden_layers - 1
    attention = forward - 2.0 * matrices("")
    assert attention > 0
    # The embedding alone: gradients run through everything, one matrix has its own.
    assert count("model/embed_tokens/*") == 2 * forward + attention + 2.0 * matrices("embed_tokens")
    # The last layer alone: one pass, the way back through it and the head, and its own gradients.
    own = matrices(f"layers/{last}/")
    way_back = 2.0 * (own + matrices("embed_tokens"))
    kinds = [kind for kind in config.layer_types if kind != "conv"]
    last_attention = 2 * attention / len(kinds) if config.layer_types[last] != "conv" else 0.0
    assert count(f"model/layers/{last}/*") == pytest.approx(forward + way_back + last_attention + 2.0 * own)


STEPS, PART = 4, ("model/layers/1/*", "*norm/weight")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """sft of a part, with its average -> preference of one factor of each adapter."""
    folder = tmp_path_factory.mktemp("trained")
    recipes.write_data(folder)
    whole = recipes.recipe(folder, export=False, prompts=())
    short = {"max_steps": STEPS, "save_steps": 2, "eval_steps": 0, "rows_per_step": 4}
    optimizer = Optimizer(learning_rate=3e-3, lr_factors=(("*norm/weight", 3.0),))
    sft = dataclasses.replace(
        whole.stages[1], train=PART, ema_decay=0.5, optimizer=optimizer, **short | {"snapshot_steps": 2}
    )
    adapted = dataclasses.replace(whole.stages[2], lora=LoRA(rank=2), train=("adapter/*/b",), **short)
    recipe = dataclasses.replace(whole, stages=(sft, adapted))
    (folder / "recipe.json").write_text(json.dumps(to_jsonable(recipe)))
    code, out = finish(start(folder / "recipe.json", "--run", "whole"))
    assert code == 0, out
    assert "LoRA: 960 trainable parameters" in out
    return folder / "runs" / "whole"


def named(tree: Any) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(k.key for k in path): np.asarray(x) for path, x in found}


def test_the_stage_hands_on_the_whole_model(run: Any) -> None:
    stages = run / "stages"
    half, sft = load_model(stages / "sft" / "snapshots" / "2"), load_model(stages / "sft")
    average, adapter = load_model(stages / "sft" / "ema"), load_adapter(stages / "preference")
    assert named(sft.params).keys() == named({"model": param_table_shapes()}).keys()
    for path, x in named(sft.params).items():
        still = not (path.startswith("model/layers/1/") or path.endswith("norm/weight"))
        for other in (half, average):
            assert np.array_equal(x, named(other.params)[path]) == still, path
    parts = named(adapter.params)
    assert {path.rpartition("/")[2] for path in parts} == {"a", "b"}
    assert any(np.abs(x).max() > 0 for path, x in parts.items() if path.endswith("/b"))


def param_table_shapes() -> Any:
    return jax.tree.map(lambda p: np.zeros(()), param_table(recipes.MODEL), is_leaf=lambda p: hasattr(p, "hf"))


def test_checkpoints_hold_the_part(run: Any) -> None:
    parts = {
        "sft": lambda n: "/layers/1/" in n or n.endswith("norm/weight"),
        "preference": lambda n: n.endswith("/b"),
    }
    for stage, part in parts.items():
        store = CheckpointStore(run / "stages" / stage / "checkpoints")
        stored = json.loads((store.path(STEPS) / "meta" / "meta.json").read_text())
        of_params = [n for n in stored["leaves"] if n.startswith("params/")]
        assert of_params
        assert all(part(n) for n in of_params)
        assert FIXED in stored["meta"]
    assert {FIXED, "base"} <= stored["meta"].keys()


def resumed(run: Any, name: str) -> Any:
    """A copy of the run that was interrupted between the last two checkpoints of its first stage."""
    copy = run.parent / name
    shutil.copytree(run, copy)
    (copy / "finished.json").unlink()
    shutil.rmtree(copy / "stages" / "preference")
    sft = copy / "stages" / "sft"
    for path in sft.iterdir():
        if path.name != "checkpoints":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    CheckpointStore(sft / "checkpoints").discard_after(2)
    return copy


@pytest.mark.slow
def test_a_resume_ends_bit_for_bit_the_same(run: Any) -> None:
    copy = resumed(run, "again")
    code, out = finish(start(run.parent.parent / "recipe.json", "--run", "again"))
    assert code == 0, out
    assert "resuming at step 2" in out
    logs = [
        [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(r / "metrics.jsonl")]
        for r in (run, copy)
    ]
    assert logs[0] == logs[1]
    for stage in ("sft", "preference", "sft/ema"):
        found, expected = (named(load_model(r / "stages" / stage).params) for r in (copy, run))
        for path, x in expected.items():
            np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_beside_another_fixed_part_it_does_not_go_on(run: Any) -> None:
    store = CheckpointStore(run / "stages" / "sft" / "checkpoints")
    same_beside(store, {FIXED: store.meta(STEPS)[FIXED]})
    with pytest.raises(CheckpointError, match="were trained beside another fixed part than the one found now"):
        same_beside(store, {FIXED: "0" * 64})
