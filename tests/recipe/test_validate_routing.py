"""What a recipe may ask of a mixture of experts: each mistake named before any work."""

import dataclasses
import json
import re

import pytest

from jaxpo.config import Compute, LoRA, Mesh, Pretrain, Routing, Tokenizer
from jaxpo.convert.config_json import config_to_json
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.presets import preset
from jaxpo.objectives.encode import Scorer
from jaxpo.ops import attention, conv, grouped
from jaxpo.recipe.checks.routing import unused_coefficients
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.assemble import make_objective
from jaxpo.stages.run import execute

MOE = preset("nano_moe")


def _problems(recipe, **routing):
    sft = dataclasses.replace(recipe.stages[1], routing=Routing(**routing))
    return list(find_problems(dataclasses.replace(recipe, stages=(recipe.stages[0], sft, *recipe.stages[2:]))))


@pytest.mark.parametrize("field", ["bias_update_rate", "router_aux_loss_coef", "router_z_loss_coef"])
def test_coefficients_are_not_negative(recipe, field):
    found = _problems(recipe, **{field: -1.0})
    assert found == [f"{recipe.stages[1].name}.routing.{field}: -1 must be a number at least 0; 0 switches it off."]


def test_adapters_leave_the_bias_to_the_base(recipe):
    stage = dataclasses.replace(recipe.stages[1], lora=LoRA(), routing=Routing(bias_update_rate=0.1))
    run = dataclasses.replace(recipe, stages=(recipe.stages[0], stage, *recipe.stages[2:]))
    said = "with adapters the routing bias belongs to the frozen base"
    assert not any(said in p for p in find_problems(run)), "a dense model has no bias"
    assert any(said in p for p in find_problems(dataclasses.replace(run, model=MOE)))
    with pytest.raises(ConfigError, match=said):
        make_objective(stage, Scorer(MOE))


@pytest.mark.parametrize(("devices", "experts", "bad"), [(3, 8, True), (4, 8, False), (-1, 8, False), (2, 0, False)])
def test_an_expert_axis_divides_the_experts(recipe, devices, experts, bad):
    model = dataclasses.replace(MOE, num_experts=experts)
    run = dataclasses.replace(recipe, model=model, mesh=Mesh(fsdp=1, expert=devices))
    found = [p for p in find_problems(run) if p.startswith("mesh.expert")]
    expected = f"mesh.expert: {devices} devices cannot share {experts} experts equally (model.num_experts); choose a "
    assert found == ([f"{expected}divisor of their number."] if bad else [])


def test_a_balance_loss_without_experts_or_a_rate_without_a_bias():
    stage = Pretrain(routing=Routing(router_aux_loss_coef=0.01))
    with pytest.raises(ConfigError, match=r"pretrain.routing.router_aux_loss_coef: 0.01, and the model has no experts"):
        make_objective(stage, Scorer(preset("nano")))
    bare = dataclasses.replace(MOE, use_expert_bias=False)
    with pytest.raises(ConfigError, match=r"bias_update_rate: 0.001, and the model has no expert bias"):
        make_objective(Pretrain(), Scorer(bare))
    assert list(unused_coefficients(None, Pretrain().routing)) == []  # a dense model has nothing to move
    assert make_objective(Pretrain(), Scorer(preset("nano"))).name == "next_token"


@pytest.mark.parametrize(
    ("sizes", "rules", "message"),
    [
        (
            {"fsdp": 2},
            (("expert_mlp", "fsdp"), ("expert_embed", None)),
            "expert_mlp -> fsdp: that axis spreads the rows",
        ),
        ({"sequence": 2}, (("expert_mlp", "sequence"),), "expert_mlp -> sequence: that axis spreads"),
        ({"sequence": 2}, (("expert", "sequence"),), "expert -> sequence: that axis spreads"),
        ({"tensor": 2}, (("expert", "tensor"),), "expert and expert_mlp -> tensor: one axis cannot spread both"),
    ],
)
def test_rules_that_would_add_up_results_for_different_tokens(recipe, sizes, rules, message):
    run = dataclasses.replace(recipe, model=MOE, mesh=Mesh(**{"fsdp": 1, **sizes}, rules=rules))
    [found] = find_problems(run)
    assert found.startswith(f"mesh.rules: {message}")
    assert "choose an" in found
    assert not list(find_problems(dataclasses.replace(run, model="nano"))), "a dense model has no experts"
    one = dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, fsdp=1, sequence=1, tensor=1))
    assert not list(find_problems(one)), "on one device nothing is added up"


@dataclasses.dataclass(frozen=True)
class Untouched:
    """A corpus that must not be built."""

    def build(self, directory):
        raise AssertionError("the corpus was built before the check")


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            Mesh(fsdp=1, expert=-1),
            "mesh.expert: 8 devices cannot share 6 experts equally (model.num_experts)",
        ),
        (
            Mesh(fsdp=-1, rules=(("expert_mlp", "fsdp"), ("expert_embed", None))),
            "mesh.rules: expert_mlp -> fsdp: that axis spreads the rows",
        ),
    ],
)
def test_an_axis_of_all_remaining_devices_is_checked_before_any_work(recipe, tmp_path, mesh, message):
    model = dataclasses.replace(MOE, num_experts=6)
    run = dataclasses.replace(recipe, model=model, mesh=mesh, corpus=Untouched(), output_dir=str(tmp_path / "runs"))
    assert not list(find_problems(run))
    with pytest.raises(ConfigError, match=re.escape(message)):
        execute(run)


def test_a_stage_with_experts_of_its_own_divides_them_over_the_axis_too(recipe):
    stage = dataclasses.replace(recipe.stages[0], model=MOE, init_from="random")
    run = dataclasses.replace(recipe, stages=(stage,), mesh=Mesh(fsdp=1, expert=3))
    expected = "mesh.expert: 3 devices cannot share 8 experts equally (pretrain.model.num_experts); choose a divisor"
    assert list(find_problems(run)) == [f"{expected} of their number."]


def test_coefficients_that_the_model_has_no_use_for_are_found_before_any_work(recipe):
    bare = dataclasses.replace(MOE, use_expert_bias=False)
    said = "pretrain.routing.bias_update_rate: 0.001, and the model has no expert bias (model.use_expert_bias is off)"
    assert list(find_problems(dataclasses.replace(recipe, model=bare))) == [f"{said}; set it to 0."]
    said = "sft.routing.router_aux_loss_coef: 0.01, and the model has no experts; set it to 0."
    assert _problems(recipe, router_aux_loss_coef=0.01) == [said]


def test_the_model_of_a_checkpoint_is_asked_before_any_work(recipe, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    bare = dataclasses.replace(MOE, use_expert_bias=False)
    (origin / "config.json").write_text(json.dumps(config_to_json(bare, "float32")))
    run = dataclasses.replace(
        recipe,
        model_from=str(origin),
        tokenizer=Tokenizer(),
        corpus=Untouched(),
        output_dir=str(tmp_path / "runs"),
        mesh=Mesh(fsdp=1),
    )
    assert not list(find_problems(run))
    with pytest.raises(ConfigError, match=r"^pretrain.routing.bias_update_rate: 0.001, .* set it to 0.$"):
        execute(run)
    (origin / "config.json").write_text(json.dumps(config_to_json(dataclasses.replace(MOE, num_experts=6), "float32")))
    run = dataclasses.replace(run, mesh=Mesh(fsdp=1, expert=-1))
    with pytest.raises(ConfigError, match=r"^mesh.expert: 8 devices cannot share 6 experts .*model_from.num_experts"):
        execute(run)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("experts", "blocks, megablox, ragged_dot, triton"),
        ("attention", "xla, pallas, splash, cudnn"),
        ("conv", "xla, pallas"),
    ],
)
def test_implementations_that_do_not_exist(recipe, field, known):
    run = dataclasses.replace(recipe, compute=Compute(**{field: "bogus"}))
    said = f"compute.{field}: there is no implementation 'bogus'; leave it out to take the best of this platform, or "
    assert list(find_problems(run)) == [f"{said}choose one of {known}."]
    assert set({"experts": grouped, "attention": attention, "conv": conv}[field].available()) <= set(known.split(", "))
    for name in known.split(", "):
        assert not list(find_problems(dataclasses.replace(run, compute=Compute(**{field: name}))))


def test_backends_that_are_not_here_are_refused_before_any_work(recipe, tmp_path):
    named = Compute(attention="splash", conv="pallas", experts="megablox")
    run = dataclasses.replace(recipe, compute=named, corpus=Untouched(), output_dir=str(tmp_path / "runs"))
    assert not list(find_problems(run)), "another platform has them"
    with pytest.raises(ConfigError, match=r"compute.attention: .* available: xla. It runs on tpu. Leave it") as refused:
        execute(run)
    for field in ("conv", "experts"):
        assert f"compute.{field}: " in str(refused.value)
    assert "'megablox' is not available here; available: blocks, ragged_dot. Leave it unset" in str(refused.value)
