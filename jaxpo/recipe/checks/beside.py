"""The checks of the networks beside the trained one: their names, sources, vocabularies and records. No jax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Run
from jaxpo.config.fields import flag
from jaxpo.data.rows.needs import RECORDABLE, REFERENCE, TEACHER, Needs
from jaxpo.errors import did_you_mean
from jaxpo.models.family import is_config
from jaxpo.objectives.methods.options import why_not_recorded
from jaxpo.recipe.beside import START, Companion, companions, shorter
from jaxpo.recipe.checks.denoise import beside_image_problems
from jaxpo.recipe.checks.model import difference
from jaxpo.recipe.kinds import method_of
from jaxpo.recipe.lineage import declared_model, with_models


def beside_problems(run: Run, index: int, stage: Any, method: Any) -> Iterator[str]:
    """Everything wrong with the networks that a stage keeps beside the trained one.

    Args:
      method: what the stage minimises, with its `NEEDS`.
    """
    needs: Needs = method.NEEDS
    yield from _name_problems(stage, method, needs)
    for network in companions(stage, needs):
        yield from _spelling_problems(stage, network)
        yield from _recording_problems(stage, network, method)
        yield from _moving_problems(stage, network)
        if network.source not in (None, START):
            yield from _source_problems(run, index, stage, network)
        yield from _image_problems(run, index, stage, network, method)


def _name_problems(stage: Any, method: Any, needs: Needs) -> Iterator[str]:
    """Each once, and each read by the method."""
    names, known = [name for name, _ in stage.beside], [name for name, _ in needs.networks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{stage.name}.beside: there are two networks of one name, {name!r}; keep one of them."
    for name in dict.fromkeys(name for name in names if name not in known):
        yield (
            f"{stage.name}.beside.{name}: {type(method).__name__} reads no network of that name; it reads "
            f"{', '.join(known) or 'none'}.{did_you_mean(name, known)}"
        )


def _spelling_problems(stage: Any, network: Companion) -> Iterator[str]:
    """What both a short field and `beside` say must be the same."""
    given, short = dict(stage.beside).get(network.name), shorter(stage).get(network.name)
    if given is None or short is None:
        return
    where, name = f"{stage.name}.beside.{network.name}", stage.name
    if short.source is not None and given.source not in (START, short.source):
        yield f"{where}.source: is {given.source!r}, and {name}.{network.name} is {short.source!r}; give one of them."
    # That a teacher is recorded is a default, which does not contradict.
    contradicts = short.recorded is False or (short.recorded and network.name != TEACHER)
    if contradicts and given.recorded not in (None, short.recorded):
        yield f"{where}.recorded: is {given.recorded}, and {name}.{short.field} is {short.recorded}; give one of them."


def _recording_problems(stage: Any, network: Companion, method: Any) -> Iterator[str]:
    """Only numbers per token can be stored."""
    if network.recorded and not stage.RECORDS:
        yield (
            f"{stage.name}.beside.{network.name}.recorded: the answers are written during training, so that nothing "
            "can be stored of them beforehand; leave it out."
        )
        return
    if not network.recorded or network.kind in RECORDABLE:
        return
    name, kind = type(method).__name__, network.kind
    given = dict(stage.beside).get(network.name)
    if given is not None and given.recorded:
        path = flag((stage.name, "beside", network.name, "recorded"))
        what = "has a term over the vocabulary of both models" if kind == "vocab" else "runs it inside itself"
        yield (
            f"{stage.name}.beside.{network.name}.recorded: {name} {what}, which numbers per token cannot give; the "
            f"network must run in every step: leave it out, or {path} False."
        )
    elif network.name == REFERENCE:
        yield (
            f"{stage.name}.precompute_ref_log_probs: {name} has a term over the vocabulary of both "
            "models, which log-probs of single tokens cannot give; the reference must run in every step: "
            f"leave it out, or {flag((stage.name, 'precompute_ref_log_probs'))} False."
        )
    else:
        yield f"{stage.name}.loss: {method.INFO.name}: {why_not_recorded(network.name, kind)}"


def _moving_problems(stage: Any, network: Companion) -> Iterator[str]:
    """A reference that follows the policy starts as the policy and is never stored."""
    given = dict(stage.beside).get(network.name)
    if not network.moves or given is None:
        return
    where = f"{stage.name}.beside.{network.name}"
    if given.source != START:
        yield (
            f"{where}.source: {given.source!r}, but a reference that follows the policy (sync_ref_model) starts as "
            "the policy; leave one of them out."
        )
    if given.recorded:
        yield (
            f"{where}.recorded: what is read of a reference that moves (sync_ref_model) cannot be computed beforehand; "
            "leave one of them out."
        )


def _source_problems(run: Run, index: int, stage: Any, network: Companion) -> Iterator[str]:
    """It is an earlier stage whose model fits, or a folder."""
    short, source = shorter(stage).get(network.name), str(network.source)
    by_field = short is not None and short.source == source
    where = f"{stage.name}.{network.name}" if by_field else f"{stage.name}.beside.{network.name}.source"
    earlier = {s.name: s for s in with_models(run, index)}
    if source in earlier:
        yield from (f"{where}: {problem}" for problem in _stage_problems(run, stage, network, earlier[source]))
    elif Path(source).is_dir():
        return
    elif source in [s.name for s in run.stages[index:]]:
        yield f"{where}: the stage {source!r} does not come before {stage.name!r}."
    else:
        known, more = ", ".join(earlier) or "there is none", () if by_field else (START,)
        start = "" if by_field else f"{START!r}, "
        yield (
            f"{where}: {source!r} is neither {start}an earlier stage ({known}) nor a folder."
            f"{did_you_mean(source, [*earlier, *more])}"
        )


def _image_problems(run: Run, index: int, stage: Any, network: Companion, method: Any) -> Iterator[str]:
    """Beside a model of images it sees the same noisy ones, or is one that says how well they fit."""
    part, mine = image_part(method, network.name), declared_model(run, stage)
    theirs = mine
    if network.source not in (None, START):
        theirs = next((declared_model(run, s) for s in with_models(run, index) if s.name == network.source), None)
    if part is not None and is_config(mine) and is_config(theirs):
        where = f"{stage.name}.beside.{network.name}.source"
        yield from (
            f"{where}: {problem}" for problem in beside_image_problems(mine, theirs, part, decoded=decodes(method))
        )


def decodes(method: Any) -> bool:
    """Whether a method decodes latents before a network beside it sees them."""
    return "decoder" in dict(method.NEEDS.networks)


def image_part(method: Any, network: str) -> str | None:
    """What of its family a network beside a model of images must have; None beside another model."""
    found: str | None = getattr(method, "BESIDE", {}).get(network)
    return found


def _stage_problems(run: Run, stage: Any, network: Companion, source: Any) -> Iterator[str]:
    """An earlier stage's model has the vocabulary, and where it matters the shape and the head."""
    mine, theirs = declared_model(run, stage), declared_model(run, source)
    ours, other = (getattr(model, "vocab_size", None) for model in (mine, theirs))
    if ours is not None and other is not None and ours != other:
        yield (
            f"the model of stage {source.name!r} has another vocabulary: its logits are over {other} tokens and the "
            f"{trained_word(network.name)}'s over {ours}. Distributions over different tokens cannot be compared."
        )
    elif network.name in same_shape(method_of(stage)) and mine is not None and theirs is not None and mine != theirs:
        yield (
            f"the model of stage {source.name!r} has another architecture ({difference(theirs, mine)}), and the loss "
            "reads its activations layer by layer; name a model of the same shape."
        )
    if network.kind == "values" and source.TRAINS and "value" not in method_of(source).NEEDS.extra:
        yield f"stage {source.name!r} leaves no value head; name a stage that trains one, such as a reward model's."


def trained_word(network: str) -> str:
    """How messages call the trained network beside this one."""
    return "student" if network == TEACHER else "trained model"


def same_shape(method: Any) -> tuple[str, ...]:
    """Names of the networks that must have the trained one's architecture."""
    return getattr(method, "SAME_SHAPE", ())
