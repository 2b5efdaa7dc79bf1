"""What a stage trains of its model, adapter and heads: the checks before any work, what is fixed, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.config import Run, Stage
from jaxpo.config.fields import flag
from jaxpo.convert.model_io import read_config
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family, param_table
from jaxpo.models.lowrank import describe_adapter
from jaxpo.models.parts import Part, PatchLoad
from jaxpo.models.paths import EVERYTHING, cut, first_match, matching, near_paths, split_table
from jaxpo.models.spec import Table, leaves, param_count, param_shardings
from jaxpo.objectives.families.critic import CRITIC
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.objectives.wrappers.lora import ADAPTER
from jaxpo.recipe import lineage
from jaxpo.recipe.kinds import networks_of
from jaxpo.stages.assemble import Assembly, own_tables
from jaxpo.stages.beside import Opened
from jaxpo.stages.features import feature_problems, keeps_features
from jaxpo.stages.named_parts import heads_of_others
from jaxpo.stages.qat import grid_problems, rounded_lines
from jaxpo.stages.setting import Setting
from jaxpo.train.flops import NO_MEDIA, spared_flops_per_token, training_flops_per_token, work_per_token

Tree = Any
MODEL = "model"


def check_patterns(run: Run) -> None:
    """Every pattern of every stage finds its parameters; ConfigError with all that do not. Reads no weights."""
    problems = []
    for stage in lineage.trained(run):
        chosen = stage.lora or stage.qat or stage.train != EVERYTHING or stage.optimizer.lr_factors
        if not (chosen or keeps_features(stage)):
            continue
        config = lineage.declared_model(run, stage)
        if isinstance(config, str):
            config = lineage.with_additions(read_config(config), *lineage.descent(run, stage))
        problems += grid_problems(stage, config)
        try:
            tables = own_tables(stage, config)
        except ConfigError as error:
            problems += [f"{stage.name}.{p}" for p in error.problems]
        else:
            given = heads_before(run, stage, tables, config)
            problems += [*train_problems(stage, tables, config, given), *factor_problems(stage, tables)]
            problems += feature_problems(stage, tables, config)
    if problems:
        raise ConfigError(problems)


def heads_before(run: Run, stage: Any, tables: Mapping[str, Table], config: TextConfig) -> Collection[str]:
    """The heads that a stage finds in the model that it starts from, as far as the recipe shows it.

    Of a folder none is known to lack: `check_heads` sees when the model is there.
    """
    heads = tables.keys() - {MODEL, ADAPTER}
    if stage.init_from == lineage.RANDOM:
        return ()
    before = {s.name: s for s in lineage.with_models(run, run.stages.index(stage))}
    if stage.init_from != lineage.PREVIOUS and stage.init_from not in before:
        return heads
    if stage.init_from == lineage.PREVIOUS and not before:
        return () if run.model_from is None else heads
    origin = list(before.values())[-1] if stage.init_from == lineage.PREVIOUS else before[stage.init_from]
    if not origin.TRAINS:
        return ()
    theirs = own_tables(origin, config)
    others = heads_of_others(run, stage)
    fit = [name for name in heads if name in theirs and _shapes(theirs[name]) == _shapes(tables[name])]
    return [name for name in fit if name not in others]


def check_heads(stage: Stage, tables: Mapping[str, Table], base: Tree, others: Collection[str] = ()) -> None:
    """ConfigError for a head that stays as it is and that the model which a stage starts from does not have.

    Args:
      others: heads that belong to others there (`named_parts.heads_of_others`).
    """
    trained, _ = split_table(tables, stage.train)
    for head in sorted(tables.keys() - {MODEL, ADAPTER} - trained.keys()):
        found = None if head in others else base.get(head)
        if found is None or [x.shape for x in jax.tree.leaves(found)] != [shape for _, shape in _shapes(tables[head])]:
            raise ConfigError(_untrained(stage, head))


def _shapes(table: Table) -> list[tuple[str, tuple[int, ...]]]:
    return [(path, param.shape) for path, param in leaves(table)]


def _untrained(stage: Stage, head: str) -> str:
    where = f"{stage.name}.train: nothing of the head {head!r}"
    return f"{where}, which the loss trains from scratch, matches; add '{head}/*'."


def train_problems(
    stage: Stage, tables: Mapping[str, Table], config: TextConfig, given: Collection[str] = ()
) -> Iterator[str]:
    """Patterns without a match, and parts that a stage cannot leave fixed.

    Args:
      given: heads that the stage finds in the model that it starts from.
    """
    where, paths = f"{stage.name}.train", [path for path, _ in leaves(tables)]
    missed = [pattern for pattern in stage.train if not matching(paths, pattern)]
    for pattern in missed:
        yield f"{where}: {pattern!r} matches no parameter.{near_paths(pattern, paths)}"
    if missed:
        return
    trained, fixed = split_table(tables, stage.train)
    if not param_count(trained):
        yield f"{where}: nothing would be trained; give patterns such as 'model/layers/0/*', or '*'."
        return
    for head in sorted(tables.keys() - {MODEL, ADAPTER} - trained.keys() - set(given)):
        yield _untrained(stage, head)
    if any(network.moves for network in networks_of(stage)) and MODEL not in trained:
        yield f"{where}: the model would be fixed, and sync_ref_model moves the reference after it; leave one out."
    experts = family(config).experts(config)
    biases = set() if experts is None else {f"{MODEL}/{path}" for path in experts.biases}
    still = [path for path, _ in leaves(fixed) if path in biases]
    if stage.routing.bias_update_rate > 0 and still:
        rate, name = flag((stage.name, "routing", "bias_update_rate")), "/".join(still[0].split("/")[-2:])
        yield f"{where}: {still[0]} is fixed, but routing biases are to be moved; add '*/{name}', or give {rate} 0."


def factor_problems(stage: Stage, tables: Mapping[str, Table]) -> Iterator[str]:
    """Factors of a learning rate that nothing has."""
    where, patterns = f"{stage.name}.optimizer.lr_factors", [pattern for pattern, _ in stage.optimizer.lr_factors]
    paths = [path for path, p in leaves(tables) if not p.buffer]
    trained = [path for path in paths if first_match(path, stage.train) is not None]
    for i, pattern in enumerate(patterns):
        found = matching(trained, pattern)
        if not matching(paths, pattern):
            yield f"{where}: {pattern!r} matches no parameter.{near_paths(pattern, paths)}"
        elif not found:
            yield f"{where}: {pattern!r} matches only what {flag((stage.name, 'train'))} leaves fixed; leave it out."
        elif all(first_match(path, patterns) != i for path in found):
            yield f"{where}: all that {pattern!r} matches is taken by an earlier pattern; put it before that."


def fixed_part(setting: Setting, stage: Stage, config: TextConfig, first: Tree) -> Tree:
    """What a stage leaves as it is of its first parameters, placed as any."""
    _, fixed = split_table(own_tables(stage, config), stage.train)
    where = {name: param_shardings(table, setting.mesh, setting.rules) for name, table in fixed.items()}
    return jax.tree.map(jax.device_put, cut(fixed, first), where)


def beside_fixed(beside: Opened, fixed: Tree) -> Opened:
    """The networks beside the trained one, and what is fixed of it, which checkpoints know by its fingerprint."""
    about = {FIXED: fingerprint(fixed)} if fixed else {}
    return replace(beside, frozen=beside.frozen | {FIXED: fixed}, about=beside.about | about)


def trained_lines(stage: Stage, config: TextConfig, assembly: Assembly) -> list[str]:
    """What a stage says of what it trains: the table of its adapters, its grid, and how much its patterns choose."""
    adapted: list[str] = []
    if stage.lora is not None:
        count = param_count(assembly.trained.get(ADAPTER, {}))
        adapted = describe_adapter(param_table(config), assembly.tables[ADAPTER], stage.lora, count)
    return [*adapted, *rounded_lines(stage, config), *part_lines(stage, assembly.tables)]


def part_lines(stage: Stage, tables: Mapping[str, Table]) -> list[str]:
    """How much of `tables` each pattern of a stage trains, and all together; nothing where that is everything."""
    if stage.train == EVERYTHING:
        return []
    sizes = {path: 0 if p.buffer else p.size for path, p in leaves(tables)}
    found = {pattern: matching(sizes, pattern) for pattern in stage.train}
    total, trained = sum(sizes.values()), param_count(split_table(tables, stage.train)[0])
    return [
        *(f"train {p!r}: {len(x)} arrays, {sum(map(sizes.__getitem__, x)):,} parameters" for p, x in found.items()),
        f"train: {trained:,} of {total:,} parameters, {trained / total:.2%}; the others are fixed",
    ]


def flops_per_token(stage: Stage, config: TextConfig, context: float, media: PatchLoad = NO_MEDIA) -> float:
    """As for the whole model, but what is fixed has no gradient of its own, and what lies below all that is trained
    none at all; an adapter's matrices are multiplied beside those of the base. A critic of its own costs as much.

    Args:
      context, media: see `jaxpo.train.flops`.
    """
    tables = own_tables(stage, config)
    trained = split_table(tables, stage.train)[0]
    own = [path for path, _ in leaves(trained.get(MODEL, {}))]
    adapted = [path for path, _ in leaves(trained.get(ADAPTER, {}))]
    parts = work_per_token(config, context, media).parts
    beside = 4.0 * _products(tables.get(ADAPTER, {}), parts) + 2.0 * _products(trained.get(ADAPTER, {}), parts)
    spared = spared_flops_per_token(config, context, own, reached=own + adapted, media=media)
    whole = training_flops_per_token(config, context, media)
    critic = whole if MODEL in tables.get(CRITIC, {}) else 0.0
    return whole - spared + beside + critic


def _products(adapter: Table, parts: Sequence[Part]) -> float:
    """Entries of an adapter's matrices, each as often as a token goes through the part that it stands in."""
    rates = {path: next((p.rate for p in parts if path.startswith(p.names)), 1.0) for path, _ in leaves(adapter)}
    return sum(rates[path] * p.size for path, p in leaves(adapter))
