"""One trained stage of a run: from the model that it starts from to the model that it leaves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.fallback import set_damaged_aside
from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config import Stage
from jaxpo.data.packing.loader import Loader
from jaxpo.data.source import Source
from jaxpo.data.tokens.index import pieces_of
from jaxpo.data.tokens.prepare import Dataset
from jaxpo.errors import CheckpointError
from jaxpo.models.family import param_table
from jaxpo.models.parts import PatchLoad
from jaxpo.models.paths import joined
from jaxpo.models.spec import Table, abstract_params, init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.base import Method
from jaxpo.objectives.wrappers.lora import ADAPTER
from jaxpo.recipe.kind import Materials
from jaxpo.recipe.kinds import ids_of, kind_of, method_of, networks_of
from jaxpo.recipe.lineage import PREVIOUS, RANDOM, seed_of
from jaxpo.stages.adapter import merged
from jaxpo.stages.added_parts import adds_parts, with_parts
from jaxpo.stages.assemble import Assembly, make_evaluation, own_tables
from jaxpo.stages.beside import open_beside, same_beside
from jaxpo.stages.column_values import columns_of
from jaxpo.stages.critic import with_critic
from jaxpo.stages.features import with_features
from jaxpo.stages.loaders import BLOCKS, PLAN, make_loaders
from jaxpo.stages.named_parts import heads_of_others
from jaxpo.stages.qat import on_its_grid
from jaxpo.stages.remat import REMAT, assemble_fitted, loop_lines
from jaxpo.stages.setting import Setting
from jaxpo.stages.taking_steps import Trained, train_to_end
from jaxpo.stages.trained import beside_fixed, check_heads, fixed_part, flops_per_token, trained_lines
from jaxpo.train.bookkeeping import Evaluate
from jaxpo.train.clock import Ceiling
from jaxpo.train.flops import training_flops_per_token

Tree = Any


def train(setting: Setting, stage: Any, previous: Tree, resume: str | int) -> Tree:
    """Train one stage, or go on with it; returns its parameters.

    Args:
      previous: parameters that the stage before it left.
      resume: "auto", or the step of this stage to go back to.
    """
    data, config = setting.inputs.of(stage), setting.config(stage)
    folder = setting.home.stage(stage.name)
    origin = setting.origin(stage)
    base = start_of(setting, stage, previous, origin)
    seed = seed_of(setting.run, stage)
    store = open_store(setting, stage, folder, resume)
    loaders = make_loaders(setting, stage, data, store)
    with setting.stop.during(f"computing the features of images of stage {stage.name}"):
        loaders = with_features(setting, stage, base["model"], loaders)
    recording = setting.stop.during(f"recording or loading the networks beside stage {stage.name}")
    with recording, setting.watching.ledger.during("work"):
        beside = open_beside(setting, stage, base, loaders)
    loaders = {part: loader.reading(*beside.columns[part]) for part, loader in loaders.items()}
    begun = with_critic(setting, stage, base)
    others = heads_of_others(setting.run, stage)
    check_heads(stage, own_tables(stage, config), begun, others)
    first = _with_values(first_of(begun, own_tables(stage, config), seed, others), stage, data.train)
    fixed = fixed_part(setting, stage, config, first)
    beside = beside_fixed(beside, fixed)

    def whole(params: Tree) -> Tree:
        return plain(setting, stage, base["model"], joined(params, fixed))

    how = _scorer(setting, stage)
    materials = Materials(
        stage=stage,
        rows=loaders["train"],
        frozen=beside.frozen,
        scorers=beside.scorers,
        folder=folder,
        seed=seed,
        held_out=loaders.get("eval"),
        scorer=how,
        whole=whole,
        network=setting.network,
        say=setting.console.say,
        show=setting.console.show,
    )
    source = kind_of(stage).make_source(materials)
    latest = store.latest()
    assembly, scorer, said = assemble_fitted(
        stage,
        source,
        how,
        setting.mesh,
        setting.rules,
        setting.run.compute,
        frozen=beside.frozen,
        scorers=beside.scorers,
        before=None if latest is None else store.meta(latest).get(REMAT),
        groups=data.groups,
        ids=ids_of(stage, setting.inputs.tokenizer),
        patches=loaders["train"].caps.patches_per_row,
    )
    rows = assembly.total_steps * stage.rows_per_step
    packed = [loaders["train"].packing_line(), *loaders["train"].mixture_lines(rows)]
    given = [] if kind_of(stage).purpose == "prompts" else packed  # of prompts alone nothing is trained on
    anew = [
        f"{head} is learnt anew: the model that {stage.name} starts from has it of others" for head in sorted(others)
    ]
    for line in [*said, *given, *anew, *loop_lines(scorer), *trained_lines(stage, config, assembly)]:
        setting.console.say(line)
    same_beside(store, beside.about)
    setting.results.data_counts(stage.name, data)
    return train_to_end(
        setting,
        stage,
        Trained(assembly, source, beside, base, first, fixed, whole),
        store,
        evaluate=_evaluation(stage, source, loaders.get("eval"), assembly, beside.frozen),
        meta={
            "data": {"plan": source.hash, **data.fingerprint()},
            PLAN: loaders["train"].plan.hash,
            REMAT: scorer.remat,
            BLOCKS: {part: asdict(loader.caps) for part, loader in loaders.items()},
        },
        ceiling=Ceiling(_flops(setting, stage, loaders["train"].dataset, beside.scorers), setting.peak_flops()),
    )


def _scorer(setting: Setting, stage: Stage) -> Scorer:
    """How the trained network is run; a stage whose model writes what it learns from reads the ids that are drawn."""
    scorer, ids = setting.scorer_of(stage), setting.inputs.tokenizer.vocab_size
    drawn = kind_of(stage).writes and ids < scorer.config.vocab_size
    return replace(scorer, vocab=ids) if drawn else scorer


def _evaluation(
    stage: Stage, source: Source, held_out: Loader | None, assembly: Assembly, frozen: Tree
) -> Evaluate | None:
    """Over the first `eval_rows` held-out rows; None where there are none."""
    if held_out is None:
        return None
    if (measure := kind_of(stage).measure) is not None:
        return measure(source)
    batches = list(held_out.one_pass()[: math.ceil(stage.eval_rows / stage.rows_per_step)])
    return make_evaluation(assembly.objective, batches, assembly.put, frozen, use_ema=stage.use_ema)


def open_store(setting: Setting, stage: Stage, folder: Path, resume: str | int) -> CheckpointStore:
    """The stage's checkpoints, damaged ones set aside; those after the step to go back to do not count."""
    store = CheckpointStore(folder / CHECKPOINTS, stage.save_total_limit, setting.mirror.push)
    if resume == "auto":
        set_damaged_aside(store, setting.console.say)
    if isinstance(resume, int):
        if resume not in store.steps():
            has = f"has checkpoints of steps {store.steps() or 'none'}"
            raise CheckpointError(f"--resume {resume}: {store.directory} {has}")
        store.back_to(resume)
    return store


def start_of(setting: Setting, stage: Stage, previous: Tree, origin: Path | None) -> Tree:
    """Parameters that a stage starts from.

    Raises:
      CheckpointError: their model is not of the stage's shape.
    """
    config = setting.config(stage)
    if stage.init_from == RANDOM:
        return setting.random(config, seed_of(setting.run, stage))
    base = previous if origin is None or stage.init_from == PREVIOUS else setting.load(origin)
    if adds_parts(stage):
        model = with_parts(base["model"], config, seed_of(setting.run, stage), setting.mesh, setting.rules)
        base = {**base, "model": model}
    found, wanted = dict(_shapes(base["model"])), dict(_shapes(abstract_params(param_table(config))))
    wrong = [name for name in wanted if found.get(name) != wanted[name]] or sorted(found.keys() - wanted.keys())
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"stage {stage.name}: the model in {origin or 'the run'} has another architecture: {name} is "
            f"{found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here; give {stage.name}.model its "
            f"shape, or init_from '{RANDOM}'."
        )
    return base


def _with_values(first: Tree, stage: Stage, rows: Dataset) -> Tree:
    """The first parameters, with those that the method takes from the training rows."""
    method = method_of(stage)
    if type(method).first_values is Method.first_values:
        return first
    values = method.first_values(columns_of(rows, method.NEEDS.columns))
    placed = {
        group: {name: jax.device_put(x, first[group][name].sharding) for name, x in own.items()}
        for group, own in values.items()
    }
    return {group: tree | placed.get(group, {}) for group, tree in first.items()}


def first_of(base: Tree, tables: Mapping[str, Table], seed: int, others: Collection[str]) -> Tree:
    """First parameters of a stage: those it starts from where they fit and are nobody else's, fresh ones elsewhere."""
    own = {n: tree for n, tree in base.items() if n not in others}
    fits = {n: n in own and _shapes(own[n]) == _shapes(abstract_params(table)) for n, table in tables.items()}
    key = jax.random.key(seed + 1)
    return {n: base[n] if fits[n] else init_params(table, key) for n, table in tables.items()}


def plain(setting: Setting, stage: Stage, base: Tree, params: Tree) -> Tree:
    """What a stage hands on: the plain model, rounded or with the adapter merged into its base, and the heads."""
    config = setting.config(stage)
    if stage.qat is not None:
        return dict(params) | {"model": on_its_grid(params["model"], stage.qat, config, setting.mesh, setting.rules)}
    if stage.lora is None:
        return params
    model = merged(base, params[ADAPTER], stage.lora, config, setting.mesh, setting.rules)
    return {"model": model} | {name: group for name, group in params.items() if name != ADAPTER}


def _shapes(tree: Tree) -> Any:
    """Names and shapes of a tree's leaves."""
    return [(jax.tree_util.keystr(path), x.shape) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _flops(setting: Setting, stage: Stage, dataset: Dataset, scorers: Mapping[str, Scorer]) -> float:
    """Per token: three products for the trained network, one for every other that runs beside it."""
    context, media, config = mean_context(dataset), media_load(dataset), setting.config(stage)
    online = [network.name for network in networks_of(stage) if not network.recorded]
    beside = [scorers[name].config if name in scorers else config for name in online]
    others = sum(training_flops_per_token(c, context, media) / 3 for c in beside)
    return flops_per_token(stage, config, context, media) + others


def media_load(dataset: Dataset) -> PatchLoad:
    """What comes with a token in the mean: patches, each of which attends to its whole piece."""
    if (media := dataset.lengths.media) is None:
        return PatchLoad()
    patches, squares, sight = 0.0, 0.0, dataset.sight
    for piece in pieces_of(media.values):
        patches, squares = patches + float(piece.sum()), squares + float((piece.astype(float) ** 2).sum())
    recorded = sight is not None and sight.features is not None
    return PatchLoad(patches / dataset.tokens, squares / patches, recorded)


def mean_context(dataset: Dataset) -> float:
    """Mean number of positions that a token attends to: half of its segment's length."""
    squares = sum(float((piece.astype(float) ** 2).sum()) for piece in pieces_of(dataset.lengths.values))
    return squares / (2 * dataset.tokens)
