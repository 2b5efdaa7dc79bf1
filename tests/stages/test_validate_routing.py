"""What a recipe may ask of a mixture of experts: each mistake named before any work."""

import dataclasses

import pytest

from jaxpo.config import LoRA, Mesh, Pretrain, Routing
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.presets import preset
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.routing import routing_problems
from jaxpo.stages.assemble import make_objective
from jaxpo.stages.validate import find_problems

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
    assert routing_problems(preset("nano"), Pretrain().routing) == []  # a dense model has nothing to move
    assert make_objective(Pretrain(), Scorer(preset("nano"))).name == "next_token"
