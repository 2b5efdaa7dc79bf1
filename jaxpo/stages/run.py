"""Run a recipe: its stages one after another in one run directory. Running the same command again continues."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config import RecipePart, Run, Work
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.kept import has_model
from jaxpo.convert.model_io import discard_model, load_model, save_model
from jaxpo.errors import DamagedError, writing
from jaxpo.recipe.checks.origin import check_origin
from jaxpo.recipe.checks.routing import check_placement
from jaxpo.recipe.checks.run import check
from jaxpo.recipe.kinds import kind_of
from jaxpo.recipe.lineage import trained
from jaxpo.recipe.located import located
from jaxpo.sharding import AXES, make_mesh, use_mesh
from jaxpo.sharding.turns import Processes, first_process_first
from jaxpo.stages.added_tokens import with_added_rows
from jaxpo.stages.agreeing import same_data, same_directory, started_alike
from jaxpo.stages.assemble import check_implementations
from jaxpo.stages.beginning import begin, check_data
from jaxpo.stages.beside import check_beside
from jaxpo.stages.budget import change_budgets, go_back
from jaxpo.stages.denoising import train_denoiser
from jaxpo.stages.loaders import check_blocks, check_rows
from jaxpo.stages.merging.stage import merge
from jaxpo.stages.named_parts import check_parts
from jaxpo.stages.offload import check_host_memory
from jaxpo.stages.results import INITIAL
from jaxpo.stages.run_inputs import make_inputs
from jaxpo.stages.setting import Setting, retriever_of_stage
from jaxpo.stages.trained import check_patterns
from jaxpo.stages.training import train
from jaxpo.stages.working import told, work
from jaxpo.train.console import Console
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.mirror import Mirror
from jaxpo.train.profile_range import ProfileRange
from jaxpo.train.signals import Preempted, Stop, stopper
from jaxpo.train.watching import watching

Tree = Any


def execute(run: Run, *, resume: str | int = "auto", restart: bool = False, profile: ProfileRange | None = None) -> int:
    """Train every stage of `run`, then export, verify and report; returns the process's exit code.

    Args:
      resume: "auto" continues where the run directory stands; "never" refuses one that holds work already; a number
        goes back to that step of the stage under way.
      restart: move an existing run directory aside first.
      profile: steps to record.

    Raises:
      JaxpoError: with a message for the user; nothing was lost.
    """
    run = located(run)
    check(run)
    check_patterns(run)
    check_origin(run)
    check_parts(run)
    check_host_memory(run)
    console = Console(primary=jax.process_index() == 0)
    try:
        with writing(Path(run.output_dir) / run.name), Stop(console.say) as stop:
            go_on(run, resume, restart, console, stop, profile)
    except Preempted as preempted:
        console.say(str(preempted))
        return preempted.exit_code
    return 0


def go_on(
    run: Run, resume: str | int, restart: bool, console: Console, stop: Stop, profile: ProfileRange | None = None
) -> None:
    """Begin a run or go on with it, to its end."""
    started_alike(run)
    with ExitStack() as held:
        home, run, changes = first_process_first(lambda: held.enter_context(begin(run, resume, restart, console)))
        same_directory(home)
        mirror = held.enter_context(Mirror(run.mirror, home, console.say))
        if home.finished() is not None and not changes.budgets:
            if changes.said:
                console.say("the run had finished before: what has changed has no effect any more")
            console.say(home.finished_message())
            return
        watch = held.enter_context(watching(run, home, console))
        mesh = make_mesh({axis: getattr(run.mesh, axis) for axis in AXES})
        check_placement(run, mesh.shape)
        check_rows(run, mesh, home)
        rules, config = dict(run.mesh.rules), to_jsonable(run)
        held.enter_context(use_mesh(mesh, rules))
        check_implementations(run.compute)
        held.enter_context(console)
        log = held.enter_context(
            MetricsLog(
                home.metrics,
                run.report_to,
                run_name=run.name,
                config=config,
                prometheus=run.prometheus,
                primary=home.primary,
            )
        )
        with stop.during("reading and tokenising the data"):
            inputs = make_inputs(run, home.path, console.say, Processes())
        same_data(inputs)
        for name, data in inputs.stages.items():
            check_data(home, name, data)
        setting = Setting(run, home, inputs, mesh, rules, console, log, stop, profile, watch, mirror)
        with stop.during("the plan of the batches"):
            check_blocks(setting, resume)
        if changes.budgets:
            first_process_first(lambda: change_budgets(setting, changes.budgets, home.stored_config(), resume))
            go_back(setting, changes.budgets, resume)
        if changes.open:
            home.keep_config(config)
        run_all(setting, resume)


def run_all(setting: Setting, resume: str | int) -> None:
    """Every stage that has not finished yet, then everything that follows the last one."""
    for stage in trained(setting.run):
        if not has_model(setting.home.stage(stage.name)):
            check_beside(setting, stage, setting.console.say)
    with setting.stop.during("loading the model"):
        params, config = initial(setting), setting.inputs.config
    ledger = setting.watching.ledger
    with setting.stop.during("what is measured of the initial model"), ledger.during("eval"):
        setting.results.after_stage(INITIAL, params, None, setting.scorer)
    for stage in setting.run.stages:
        if not stage.LEAVES_MODEL:
            run_work(setting, stage)
            continue
        began, unfinished = time.perf_counter(), not has_model(setting.home.stage(stage.name))
        same = config == setting.config(stage)
        config, scorer = setting.config(stage), setting.scorer_of(stage)
        with ledger.during("startup", stage.name):
            before, params = params, run_stage(setting, stage, params, resume)
        if unfinished:
            setting.results.took(stage.name, time.perf_counter() - began)
            if stage.TRAINS:
                resume = "auto"
        with setting.stop.during(f"what is measured after stage {stage.name}"), ledger.during("eval", stage.name):
            found = retriever_of_stage(stage)
            setting.results.after_stage(stage.name, params, before if same else None, scorer, found)
        note_times(setting)
    with setting.stop.during("the export, its verification and the report"), ledger.during("save"):
        note_times(setting)
        last = next((s for s in reversed(setting.run.stages) if s.LEAVES_MODEL), None)
        setting.results.conclude(params, config, setting.about(last) if last is not None else {})
    setting.console.say(setting.home.finished_message())


def run_stage(setting: Setting, stage: RecipePart, params: Tree, resume: str | int) -> Tree:
    """Parameters that a stage leaves: trained, merged, or read when it has finished already."""
    folder = setting.home.stage(stage.name)
    if has_model(folder) and (found := finished_model(setting, stage, folder)) is not None:
        setting.console.say(f"stage {stage.name} has finished already")
        return found
    params = MAKERS[kind_of(stage).runs](setting, stage, params, resume)
    about = setting.about(stage)
    with setting.watching.ledger.during("save"):
        save_model(folder, params, setting.config(stage), about)
    setting.mirror.push()
    return params


def finished_model(setting: Setting, stage: RecipePart, folder: Path) -> Tree | None:
    """The model of a stage that has finished. None: it is damaged, and follows again from what the stage keeps.

    Raises:
      DamagedError: it is damaged, and the checkpoint is gone from which it could be made.
    """
    try:
        return setting.load(folder)
    except DamagedError as error:
        if stage.TRAINS and CheckpointStore(folder / CHECKPOINTS).latest() is None:
            raise
        moved = discard_model(folder)
        setting.console.warn(f"{error.what}. It is kept as {moved.name}, and made again from what the stage keeps")
        return None


def note_times(setting: Setting) -> None:
    """Keep where the time of this start has gone so far, for the summary and the report."""
    setting.watching.ledger.keep(now=True)
    setting.results.went(setting.watching.ledger.summary())


def make_trained(setting: Setting, stage: Any, params: Tree, resume: str | int) -> Tree:
    """Parameters after training, from those that the stage before it left."""
    with setting.stop.during(f"reading and tokenising the data of stage {stage.name}"):
        setting.prepare(stage)
    check_beside(setting, stage)
    with setting.stop.during(f"preparing stage {stage.name}"):
        return TRAINERS[kind_of(stage).runs](setting, stage, params, resume)


TRAINERS = {"train": train, "denoise": train_denoiser}
"""`Kind.runs` -> how such a stage is trained."""


def make_merged(setting: Setting, stage: Any, params: Tree, resume: str | int) -> Tree:
    """Parameters merged from those of earlier stages."""
    with setting.stop.during(f"the merge of stage {stage.name}"), setting.watching.ledger.during("work"):
        return merge(setting, stage)


MAKERS = {"train": make_trained, "denoise": make_trained, "merge": make_merged}
"""`Kind.runs` -> how such a stage makes its model."""


def run_work(setting: Setting, stage: Work) -> None:
    """Let a work stage write its files, unless it has."""
    doing = setting.stop.during(f"a piece of the work of stage {stage.name}")
    with doing, setting.stop.later(), setting.watching.ledger.during("work", stage.name):
        report, seconds = work(setting, stage)
    if seconds is None:
        setting.console.say(f"stage {stage.name} has finished already")
    else:
        for line in told(report):
            setting.console.say(f"{stage.name}: {line}")
        setting.results.took(stage.name, seconds)
    # Of a finished stage too: a kill may have come between its report and the run's summary.
    setting.results.worked(stage.name, report)
    stopper(setting.stop, stage.name)()


def initial(setting: Setting) -> Tree:
    """Random or imported parameters of the model, placed on the mesh."""
    if setting.run.model_from is not None:
        found, ids = load_model(setting.run.model_from, setting.mesh, setting.rules), setting.inputs.added_ids
        if not ids or found.tokenizer is None:
            return {"model": found.params["model"]}
        config, known = setting.inputs.config, found.tokenizer.vocab_size
        return {"model": with_added_rows(found.params["model"], config, ids, known, setting.mesh, setting.rules)}
    return setting.random(setting.inputs.config, setting.run.seed)
