"""Shapes of the networks beside a stage's trained one, from the configuration alone: what `open_beside` would load."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jax.sharding import Mesh

from jaxpo.config import Run
from jaxpo.convert.model_io import read_config
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.heads import value_table
from jaxpo.models.paths import EVERYTHING, split_table
from jaxpo.models.spec import Table, abstract_params, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.recipe.beside import START, Companion
from jaxpo.recipe.kinds import method_of, networks_of
from jaxpo.recipe.lineage import PREVIOUS, declared_model, descent, with_additions, with_models
from jaxpo.stages.assemble import own_tables
from jaxpo.stages.beside import WHOLE

Tree = Any


@dataclass
class AbstractBeside:
    """As `jaxpo.stages.beside.Opened`, of shapes.

    Attributes:
      frozen: name -> shapes, with shardings, of the networks that run in every step.
      scorers: name -> how one of them is run that is not the model that the stage starts from.
    """

    frozen: dict[str, Tree] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)


def architecture(run: Run, stage: Any) -> TextConfig:
    """Of the model that a stage leaves; that of a folder is read, without its weights."""
    model = declared_model(run, stage)
    return with_additions(read_config(model), *descent(run, stage)) if isinstance(model, str) else model


def abstract_beside(run: Run, stage: Any, scorer: Scorer, mesh: Mesh, rules: Mapping[str, Any]) -> AbstractBeside:
    """The networks that a stage's step is given, and the part of its own that it leaves fixed.

    Args:
      scorer: of the trained one.
    """

    def shapes(table: Table) -> Tree:
        return abstract_params(table, shardings=param_shardings(table, mesh, rules))

    config, found = scorer.config, AbstractBeside()
    if stage.lora is not None:
        found.frozen[BASE] = shapes(param_table(config))
    for wanted in networks_of(stage):
        if wanted.moves or wanted.recorded:
            continue
        own = _is_start(run, stage, wanted)
        theirs = config if own else _architecture_of(run, str(wanted.source))
        if not own:
            found.scorers[wanted.name] = dataclasses.replace(scorer, config=theirs, remat="none")
        if not own or stage.lora is None or wanted.kind in WHOLE:
            model, heads = param_table(theirs), _heads(run, stage, wanted, theirs)
            whole = wanted.kind in WHOLE
            found.frozen[wanted.name] = (
                {n: shapes(t) for n, t in ({"model": model} | heads).items()} if whole else shapes(model)
            )
    if stage.train != EVERYTHING:
        _, fixed = split_table(own_tables(stage, config), stage.train)
        found.frozen[FIXED] = {name: shapes(table) for name, table in fixed.items()}
    return found


def _is_start(run: Run, stage: Any, wanted: Companion) -> bool:
    """Whether it is the model that the stage starts from, by that name or by another."""
    if wanted.source in (None, START):
        return True
    before = with_models(run, run.stages.index(stage))
    previous = before[-1].name if before else run.model_from
    return wanted.source == (previous if stage.init_from == PREVIOUS else stage.init_from)


def _architecture_of(run: Run, source: str) -> TextConfig:
    named = next((s for s in run.stages if s.name == source), None)
    return read_config(source) if named is None else architecture(run, named)


def _heads(run: Run, stage: Any, wanted: Companion, config: TextConfig) -> dict[str, Table]:
    """Tables of the heads beside a network that is read together with them."""
    if wanted.kind == "values":
        return {"value": value_table(config)}
    before = with_models(run, run.stages.index(stage))
    source = before[-1].name if before and wanted.source in (None, START) else wanted.source
    named = next((s for s in run.stages if s.name == source and s.TRAINS), None)
    return {} if named is None else dict(method_of(named).extra_tables(config))
