"""The catalogue of methods: complete, importable without jax, with names that can be trusted."""

import importlib
import subprocess
import sys
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer

from jaxpo.config import Preference, Run
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods import AMBIGUOUS, BY_SETTING, METHODS, resolve
from jaxpo.recipe.overrides import resolve_run


def test_the_catalogue_loads_without_jax():
    code = (
        "import sys; from jaxpo.objectives.methods import METHODS, resolve; [m() for m in METHODS.values()];"
        "bad = [m for m in ('jax', 'flax', 'numpy', 'optax') if m in sys.modules]; print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_complete(name):
    method = METHODS[name]
    info = method.INFO
    assert info.name == name
    module, _, function = info.function.rpartition(".")
    loss = getattr(importlib.import_module(module), function)
    assert callable(loss)
    assert "Reference:" in loss.__doc__
    assert "Args" in loss.__doc__ or "as `" in loss.__doc__
    assert is_dataclass(method)
    assert method.__dataclass_params__.frozen
    for f in fields(method):
        assert f"{f.name}:" in method.__doc__, f"{name}.{f.name} is not documented"
    objective = method().build(ArrayScorer())
    assert objective.name == name
    assert objective.needs == method().NEEDS
    assert method().problems() == []


# Every method that the catalogue promises, by its key.
PROMISED = """
dpo cdpo ipo ipo_sum slic hinge kto cpo orpo simpo rdpo_length exo_pair exo_rw nca nca_pair infonca aot aot_unpaired
sppo_hard sppo_soft apo_zero apo_down apo_zero_unpaired discopop alphapo fdpo dpop tdpo1 tdpo2
sigmoid_norm apo_zero_norm apo_down_norm hinge_per_token length_normalized
sparsepo lddpo lndpo rdpo_robust rpo spo_degree modpo tpo_triple lcpo dpo3d rrpo implicit_reward dove rationales
fspo themis pro_orchestrator
mapl mapl_reward secrets_rm meta_rm lipo pro_ranking tpo_tree irpo_ranking bco rso dpo_gamma bradley_terry
rpo_average rpo_tokens sft
grpo rloo reinforce_plus_plus ppo constrained_rlhf online_dpo xpo nash_md gkd minillm drpo dler hapo orion
decoupled_topk_kd bucket_topk_kl truncated_topk_kl forward_kl reverse_kl generalized_jsd
gpm gpo pal micro micro_router maxmin_rlhf
inpo vpo hypo upo mcts_dpo
colbert_distillation info_nce margin_mse cosent
denoising diffusion_dpo diffusion_kto diffusion_npo smpo_diffusion inpo_ddim ppd self_npo denscore longalign
""".split()  # noqa: SIM905


def test_the_catalogue_keeps_its_promise():
    assert not set(PROMISED) - set(METHODS)


def test_names_and_aliases_mean_one_thing():
    aliases = [a for m in METHODS.values() for a in m.INFO.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & (set(METHODS) | set(AMBIGUOUS))
    assert not set(METHODS) & set(AMBIGUOUS)
    assert not set(BY_SETTING) & (set(METHODS) | set(aliases) | set(AMBIGUOUS))


@pytest.mark.parametrize(
    ("given", "name"),
    [("dpo", "dpo"), ("SimPO", "simpo"), ("sigmoid-norm", "sigmoid_norm"), ("aot-paired", "aot"), ("ld-dpo", "lddpo"),
     ("lipo_lambda", "lipo")],
)  # fmt: skip
def test_resolve(given, name):
    assert resolve(given) is METHODS[name]


# Every `loss_type` of TRL's DPO and KTO trainers that names a loss of its own, past names included, and what its CPO
# trainer has beyond them. CPO's `hinge` and `ipo` are other losses, without a reference: here they are
# `tpo_triple`'s variants of these names, while `hinge` and `ipo` mean DPO's.
LOSS_TYPES = {
    "sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "exo_pair": "exo_pair", "nca_pair": "nca_pair",
    "robust": "rdpo_robust", "bco_pair": "bco_pair", "sppo_hard": "sppo_hard", "aot": "aot",
    "aot_unpaired": "aot_unpaired", "aot_pair": "aot_unpaired", "apo_zero": "apo_zero", "apo_down": "apo_down",
    "discopop": "discopop", "sft": "sft", "sigmoid_norm": "sigmoid_norm", "simpo": "simpo", "alphapo": "alphapo",
    "kto": "kto", "apo_zero_unpaired": "apo_zero_unpaired",
}  # fmt: skip


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_types_of_trl_resolve(loss_type):
    assert resolve(loss_type) is METHODS[LOSS_TYPES[loss_type]]


def test_the_acronyms_of_several_papers_are_ambiguous():
    assert {"tpo", "spo", "pro", "irpo", "rdpo", "apo"} <= set(AMBIGUOUS)


@pytest.mark.parametrize("acronym", AMBIGUOUS)
def test_ambiguous_acronyms_are_refused_with_their_candidates(acronym):
    with pytest.raises(ConfigError) as error:
        resolve(acronym.upper())
    for candidate, paper in AMBIGUOUS[acronym]:
        assert candidate in str(error.value)
        assert paper in str(error.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("wpo", "WPO, arXiv:2406.11827, weighs the pairs of any loss on pairs; set --stage.use-weighting True."),
        ("TR-DPO", "set --stage.sync-ref-model True."),
        ("trdpo", "set --stage.sync-ref-model True."),
        ("tpo-l", "set --stage.loss tpo_triple --stage.loss.variant tpo_l."),
        ("rorpo", "set --stage.loss rationales --stage.loss.base orpo --stage.loss.gamma 1."),
        ("RSimPO", "set --stage.loss rationales --stage.loss.base simpo."),
        ("sft-dpo", "set --stage.loss dpo3d --stage.loss.beta-minus 0.1 --stage.loss.sft-weight WEIGHT."),
        ("apo-accel", "extrapolates between rounds of any loss on pairs; `jaxpo run apo_accel`."),
        ("RPS", "`jaxpo run rps`."),
        ("R3", "is a reward of any online loss; give the online stage reward_funcs=(R3Reward(),)."),
        ("spo-minimax", "by how often they win; give the online stage reward_funcs=(WinRateReward(judge=JUDGE),)."),
    ],
)
def test_names_that_are_settings_are_refused_with_the_flags(name, remedy):
    with pytest.raises(ConfigError) as error:
        resolve(name)
    assert f"loss {name!r} is no loss of its own: " in str(error.value)
    assert str(error.value).endswith(remedy)


def test_the_flags_of_such_names_exist():
    for name, (_, flags) in BY_SETTING.items():
        words = flags.replace("WEIGHT", "0.5").split()
        stage = resolve_run(Run(stages=(Preference(loss=METHODS["dpo"]()),)), words).run.stages[0]
        assert stage != Preference(loss=METHODS["dpo"]()), name
        assert stage.loss.problems() == []


def test_trls_cpo_hinge_and_ipo_are_named_where_one_looks():
    for name in ("hinge", "ipo"):
        info = METHODS[name].INFO
        assert f"CPOTrainer's has no reference: tpo_triple, variant {name}" in info.certainty
        assert METHODS["tpo_triple"](variant=name, tpo_alpha=0.0).NEEDS.kind("reference") == "none"


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown loss 'simop'; did you mean simpo.*\?"):
        resolve("simop")
    with pytest.raises(
        ConfigError, match=r"unknown loss 'zzz'; there are: alphapo, .*truncated_topk_kl, upo, vpo, xpo\."
    ):
        resolve("zzz")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dpo", {"beta": 0.0}, "dpo: beta is 0.0 but must be a number greater than 0."),
        (
            "dpo",
            {"label_smoothing": 0.7},
            "label_smoothing is 0.7 but must be a number at least 0 and at most 0.5.",
        ),
        ("lddpo", {"ld_alpha": 1.5}, "lddpo: ld_alpha is 1.5 but must be a number at least 0 and at most 1."),
        ("simpo", {"simpo_gamma": float("nan")}, "simpo: simpo_gamma is nan but must be a number that is finite."),
        ("bradley_terry", {"center_rewards_coefficient": -1.0}, "center_rewards_coefficient is -1.0"),
        ("lcpo", {"num_annotators": 0}, "lcpo: num_annotators is 0 but must be a number at least 1."),
        ("lcpo", {"base": "kto"}, "lcpo: base is 'kto' but must be one of 'dpo', 'ipo', 'simpo', 'cpo'."),
        ("bco", {"shift": "ema"}, "bco: shift is 'ema' but must be one of 'balanced', 'cumulative'."),
        ("rso", {"loss_type": "ipo"}, "rso: loss_type is 'ipo' but must be one of 'sigmoid', 'hinge'."),
    ],
)
def test_hyper_parameters_out_of_range_are_named(name, settings, message):
    method = METHODS[name](**settings)
    assert message in " ".join(method.problems())
    with pytest.raises(ConfigError) as error:
        method.build(ArrayScorer())
    assert message in str(error.value)


def test_all_problems_are_shown_at_once():
    with pytest.raises(ConfigError, match="2 problems"):
        METHODS["dpo"](beta=-1.0, label_smoothing=0.9).build(ArrayScorer())


def test_a_vocabulary_term_refuses_the_cache_with_the_reason():
    with pytest.raises(ConfigError, match=r"tdpo2: precompute_ref_log_probs cannot be used.*whole distributions"):
        METHODS["tdpo2"]().build(ArrayScorer(), recorded=("reference",))


def test_lcpo_needs_follow_its_base_and_annotators():
    lcpo = METHODS["lcpo"]
    assert lcpo().NEEDS.kind("reference") == "logps"
    assert lcpo().NEEDS.columns == ()
    assert lcpo(base="simpo").NEEDS.kind("reference") == "none"
    assert lcpo(base="cpo", num_annotators=3).NEEDS.columns == ("annotator",)
    assert lcpo.NEEDS.kind("reference") == "logps"
    assert lcpo() == lcpo()


def test_columns_are_checked_against_the_settings():
    lcpo = METHODS["lcpo"]
    assert lcpo(num_annotators=3).check_columns({"annotator": np.array([0, 2, 1])}) == []
    (problem,) = lcpo().check_columns({"annotator": np.array([0, 226])})
    assert problem == "lcpo: column 'annotator' runs from 0 to 226, but num_annotators is 1; set num_annotators to 227."
    (problem,) = lcpo(num_annotators=3).check_columns({"annotator": np.array([-1, 2])})
    assert "number annotators from 0" in problem
    lipo = METHODS["lipo"]
    assert lipo().check_columns({"scores": np.array([[0.0, 1.0]])}) == []
    (problem,) = lipo().check_columns({"scores": np.array([[1.0, 9.5]])})
    assert "scores lie between 1 and 9.5" in problem
    assert lipo(gain=False).check_columns({"scores": np.array([[1.0, 9.5]])}) == []
    assert METHODS["dpo"]().check_columns({}) == []
