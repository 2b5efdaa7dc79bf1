"""Flags that name networks beside the trained one, and what is refused of them before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jaxpo.config import Beside, Distill, Run
from jaxpo.config.fields import leaves, put
from jaxpo.config.serialise import from_jsonable, to_jsonable
from jaxpo.data.rows.needs import Needs
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.presets import preset
from jaxpo.objectives.methods import METHODS
from jaxpo.recipe.beside import Companion
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.kinds import networks_of
from jaxpo.recipe.overrides import resolve_run


@dataclasses.dataclass(frozen=True)
class Many:
    """A method that reads five networks, one of each kind."""

    NEEDS: ClassVar[Needs] = Needs(
        roles=("chosen", "rejected"),
        networks=(
            ("reference", "logps"),
            ("previous", "logps"),
            ("critic", "values"),
            ("guide", "vocab"),
            ("meta", "network"),
        ),
    )


def with_values(run: Run, **values: Any) -> Run:
    for path, value in values.items():
        run = put(run, tuple(path.split("__")), value)
    return run


def beside(run: Run, *argv: str) -> Any:
    return resolve_run(run, argv).run.stages[2].beside


def test_flags_add_networks_and_change_those_of_the_file(recipe: Run) -> None:
    assert beside(recipe) == ()
    given = ("--preference.beside.reference.source", "sft", "--preference.beside.reference.recorded", "False")
    assert beside(recipe, *given) == (("reference", Beside("sft", recorded=False)),)
    run = put(recipe, ("preference", "beside"), (("previous", Beside("pretrain")), ("reference", Beside("sft"))))
    assert beside(run, "--preference.beside.reference.source", "pretrain") == (
        ("previous", Beside("pretrain")),
        ("reference", Beside("pretrain")),
    )
    assert {leaf.dotted for leaf in leaves(run)} >= {"preference.beside.previous.source", "sft.beside"}
    named = put(run, ("preference", "loss"), METHODS["dpo"]())
    assert from_jsonable(json.loads(json.dumps(to_jsonable(named)))) == named
    single = dataclasses.replace(recipe, stages=recipe.stages[2:3])
    assert resolve_run(single, ["--stage.beside.reference.recorded", "True"]).run.stages[0].beside == (
        ("reference", Beside(recorded=True)),
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--preference.beside.reference", "sft"],
            "--preference.beside.reference: takes no value; its entries have names and fields: "
            "--preference.beside.NAME.source, --preference.beside.NAME.recorded.",
        ),
        (
            ["--preference.beside.reference.sauce", "sft"],
            "--preference.beside.reference.sauce: there is no such option. Did you mean "
            "--preference.beside.reference.source",
        ),
        (
            ["--preference.beside.reference.recorded", "maybe"],
            "--preference.beside.reference.recorded: expected True or False or None, got 'maybe'.",
        ),
    ],
)
def test_flags_that_say_something_else(recipe: Run, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_run(recipe, argv)
    assert message in str(error.value)


def test_defaults_and_short_spellings_are_the_same_networks(recipe: Run) -> None:
    stage = put(recipe, ("preference", "loss"), Many()).stages[2]
    found = {network.name: (network.source, network.recorded) for network in networks_of(stage)}
    stored, run = ("start", True), ("start", False)
    assert found == {"reference": stored, "previous": stored, "critic": stored, "guide": run, "meta": run}
    short = dataclasses.replace(stage, precompute_ref_log_probs=False)
    assert networks_of(short)[0] == Companion("reference", "logps", "start", False)
    long = dataclasses.replace(stage, beside=(("reference", Beside("start", False)),))
    assert networks_of(long) == networks_of(short)
    moving = networks_of(dataclasses.replace(stage, sync_ref_model=True))[0]
    assert moving == Companion("reference", "logps", "start", False, moves=True)
    distill = Distill(loss=METHODS["forward_kl"](), teacher="sft", precompute_teacher=False)
    named = Distill(loss=METHODS["forward_kl"](), beside=(("teacher", Beside("sft", recorded=False)),))
    assert networks_of(distill) == networks_of(named) == (Companion("teacher", "vocab", "sft", False),)


CASES: list[tuple[dict[str, Any], str]] = [
    (
        {"preference__beside": (("reference", Beside("sft")), ("reference", Beside("pretrain")))},
        "preference.beside: there are two networks of one name, 'reference'; keep one of them.",
    ),
    (
        {"preference__beside": (("referense", Beside("sft")),)},
        "preference.beside.referense: Pairwise reads no network of that name; it reads reference. "
        "Did you mean reference?",
    ),
    (
        {"sft__beside": (("reference", Beside("pretrain")),)},
        "sft.beside.reference: NextToken reads no network of that name; it reads none.",
    ),
    (
        {"preference__beside": (("reference", Beside("sfd")),)},
        "preference.beside.reference.source: 'sfd' is neither 'start', an earlier stage (pretrain, sft) nor a folder. "
        "Did you mean sft?",
    ),
    (
        {"sft__loss": METHODS["implicit_reward"](), "sft__beside": (("reference", Beside("preference")),)},
        "sft.beside.reference.source: the stage 'preference' does not come before 'sft'.",
    ),
    (
        {"preference__beside": (("reference", Beside("sft")),), "sft__model": preset("lfm2_350m")},
        "preference.beside.reference.source: the model of stage 'sft' has another vocabulary: its logits are over "
        "65536 tokens and the trained model's over {vocab}. Distributions over different tokens cannot be compared.",
    ),
    (
        {"preference__loss": Many(), "preference__beside": (("guide", Beside(recorded=True)),)},
        "preference.beside.guide.recorded: Many has a term over the vocabulary of both models, which numbers per token "
        "cannot give; the network must run in every step: leave it out, or --preference.beside.guide.recorded False.",
    ),
    (
        {"preference__loss": Many(), "preference__beside": (("meta", Beside(recorded=True)),)},
        "preference.beside.meta.recorded: Many runs it inside itself, which numbers per token cannot give; the network "
        "must run in every step: leave it out, or --preference.beside.meta.recorded False.",
    ),
    (
        {"preference__loss": Many(), "preference__beside": (("critic", Beside("sft")),)},
        "preference.beside.critic.source: stage 'sft' leaves no value head; name a stage that trains one, such as a "
        "reward model's.",
    ),
    (
        {"preference__precompute_ref_log_probs": True, "preference__beside": (("reference", Beside("sft", False)),)},
        "preference.beside.reference.recorded: is False, and preference.precompute_ref_log_probs is True; give one of "
        "them.",
    ),
    (
        {"preference__sync_ref_model": True, "preference__beside": (("reference", Beside("sft")),)},
        "preference.beside.reference.source: 'sft', but a reference that follows the policy (sync_ref_model) starts "
        "as the policy; leave one of them out.",
    ),
    (
        {"preference__sync_ref_model": True, "preference__beside": (("reference", Beside(recorded=True)),)},
        "preference.beside.reference.recorded: what is read of a reference that moves (sync_ref_model) cannot be "
        "computed beforehand; leave one of them out.",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_mistakes_are_named(recipe: Run, changes: dict[str, Any], message: str) -> None:
    found = list(find_problems(with_values(recipe, **changes)))
    vocab = preset(recipe.model).vocab_size if isinstance(recipe.model, str) else recipe.model.vocab_size
    assert message.format(vocab=vocab) in found


def test_a_reference_may_be_an_earlier_stage_or_a_folder(recipe: Run, tmp_path: Path) -> None:
    for source in ("start", "pretrain", "sft", str(tmp_path)):
        assert not list(find_problems(put(recipe, ("preference", "beside"), (("reference", Beside(source)),))))


def test_the_short_spelling_of_a_teacher_may_be_repeated_but_not_contradicted(recipe: Run) -> None:
    data = recipe.stages[0].data
    stage = Distill(data=data, max_steps=1, loss=METHODS["bucket_topk_kl"](), teacher="sft")

    def problems(**changes: Any) -> list[str]:
        run = dataclasses.replace(recipe, stages=(*recipe.stages[:2], dataclasses.replace(stage, **changes)))
        return list(find_problems(run))

    assert problems() == problems(beside=(("teacher", Beside("sft")),)) == []
    assert problems(beside=(("teacher", Beside(recorded=False)),)) == []
    assert problems(teacher=None, beside=(("teacher", Beside("start")),)) == []
    (found,) = problems(beside=(("teacher", Beside("pretrain")),))
    assert found == "distill.beside.teacher.source: is 'pretrain', and distill.teacher is 'sft'; give one of them."
    (found,) = problems(precompute_teacher=False, beside=(("teacher", Beside(recorded=True)),))
    where = "distill.beside.teacher.recorded"
    assert found == f"{where}: is True, and distill.precompute_teacher is False; give one of them."
