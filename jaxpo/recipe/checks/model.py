"""The checks of a stage's architecture, which may be its own, against the model that it starts from. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jaxpo.config import Merge, Run, Stage
from jaxpo.config.fields import flag
from jaxpo.errors import ConfigError
from jaxpo.models.family import family, is_config, limits, preset
from jaxpo.recipe.lineage import PREVIOUS, RANDOM, declared_model, resolved, with_additions, with_models


def own_model_problems(run: Run, stage: Stage) -> Iterator[str]:
    """The preset exists, and has room for the tokenizer and the longest segment."""
    name, path = stage.name, (stage.name, "model")
    if stage.model is None:
        return
    if isinstance(stage.model, str):
        try:
            preset(stage.model)
        except ConfigError as error:
            yield from (f"{name}.model: {p}" for p in error.problems)
            return
    config = resolved(stage.model)
    if not is_config(config):
        yield f"{name}.model: {stage.model!r} is neither a preset's name nor a model configuration."
        return
    yield from (f"{name}.model: {problem}" for problem in ability_problems(run, config))
    most, given = limits(config), run.tokenizer
    if stage.data.max_length > most.context > 0:
        yield (
            f"{name}.data.max_length: {stage.data.max_length} exceeds the context of {flag(path)}, {most.context}; "
            f"lower {flag((name, 'data', 'max_length'))}."
        )
    if given.path is None and given.vocab_size > most.vocabulary > 0:
        yield (
            f"{name}.model: its vocabulary of {most.vocabulary} has no room for tokenizer.vocab_size "
            f"{given.vocab_size}."
        )


def ability_problems(run: Run, config: Any) -> Iterator[str]:
    """What a run asks of its model that the model's family cannot do."""
    found = family(config)
    if run.export and found.export is None and found.diffusers is None:
        yield f"export: a model of the family {found.name!r} has no Hugging Face form; --export False."
    if run.prompts and found.decoder is None:
        yield f"prompts: a model of the family {found.name!r} cannot generate; leave them empty."


def direction_problems(stage: Stage, config: Any, predicts: bool) -> Iterator[str]:
    """What looks both ways sees the tokens that it would be asked to predict; the start of a causal text sees none.

    Args:
      config: of the model that the stage trains; none of them for an unknown one.
    """
    if not is_config(config):
        return
    pooling, causal = getattr(getattr(stage, "loss", None), "pooling", None), limits(config).causal
    if pooling == "cls" and causal:
        yield (
            f"{stage.name}.loss.pooling: reads BOS, which of a causal model has seen no text, so that all are alike; "
            "give 'mean' or 'last', or an encoder (model.causal off)."
        )
    if predicts and not causal:
        yield (
            f"{stage.name}.model: it looks both ways (model.causal is off), and {type(stage).__name__} predicts tokens "
            "from those before them; train an encoder in a MaskedLM, Retrieval or Reward stage, or start from a model "
            f"that is causal ({flag(('model', 'causal'))} True of one that is new)."
        )


def origin_problems(run: Run, index: int, stage: Stage) -> Iterator[str]:
    """What a stage starts from has the stage's own shape."""
    before = with_models(run, index)
    named = [s for s in before if s.name == stage.init_from]
    source = named[0] if named else before[-1] if before and stage.init_from == PREVIOUS else None
    mine = declared_model(run, stage)
    theirs: Any
    if source is not None:
        theirs, whose = declared_model(run, source), f"stage {source.name!r}"
    elif stage.init_from == PREVIOUS:
        theirs, whose = run.model_from or resolved(run.model), "the run's initial model"
    else:
        return
    theirs = with_additions(theirs, stage)
    if mine is None or theirs is None or mine == theirs:
        return
    yield (
        f"{stage.name}.init_from: {whose} has another architecture ({difference(theirs, mine)}); "
        f"{flag((stage.name, 'init_from'))} {RANDOM} starts from fresh weights, or name a stage of the same shape."
    )


def merged_model_problems(run: Run, merge: Merge, models: Sequence[str]) -> Iterator[str]:
    """A merge averages models of one shape."""
    shapes = {s.name: declared_model(run, s) for s in with_models(run, len(run.stages)) if s.name in models}
    names = [name for name, shape in shapes.items() if shape is not None]
    for name in names[1:]:
        if shapes[name] != shapes[names[0]]:
            what = difference(shapes[names[0]], shapes[name])
            yield f"{merge.name}.models: {names[0]!r} and {name!r} have different architectures ({what})."


def difference(theirs: Any, mine: Any) -> str:
    """The first fields that differ, `hidden_size 64 and 128`."""
    if not dataclasses.is_dataclass(theirs) or type(theirs) is not type(mine):
        shown = [x if isinstance(x, str) else "its own configuration" for x in (theirs, mine)]
        return f"{shown[0]} and {shown[1]}"
    fields = [f.name for f in dataclasses.fields(theirs) if getattr(theirs, f.name) != getattr(mine, f.name)]
    return ", ".join(f"{name} {_short(getattr(theirs, name))} and {_short(getattr(mine, name))}" for name in fields[:2])


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, tuple) and len(value) > 2 else str(value)
