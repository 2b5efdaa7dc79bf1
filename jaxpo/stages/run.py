"""Run a recipe: its stages one after another in one run directory. Running the same command again continues."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh as DeviceMesh

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Merge, Preference, Run, Stage
from jaxpo.data.loader import Loader
from jaxpo.data.prepare import Dataset
from jaxpo.data.ragged import RaggedColumn
from jaxpo.errors import CheckpointError, RunError
from jaxpo.merge.soup import effective_weights, soup
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import describe_adapter
from jaxpo.models.spec import init_params
from jaxpo.objectives.lora import ADAPTER, BASE
from jaxpo.sharding import AXES, BATCH_AXES, make_mesh, param_shardings, use_mesh
from jaxpo.stages.adapter import BASE_FOLDER, check_patterns, flops_per_token, merged, save_adapter
from jaxpo.stages.assemble import Assembly, assemble, cached_reference, make_evaluation, make_scorer
from jaxpo.stages.finish import INITIAL, Results
from jaxpo.stages.model_io import has_model, load_model, save_model
from jaxpo.stages.prepared import CORPUS, Prepared, prepare_run
from jaxpo.stages.reference import reference_log_probs
from jaxpo.stages.serialise import to_jsonable
from jaxpo.stages.validate import check
from jaxpo.train.console import Console
from jaxpo.train.init import init_state
from jaxpo.train.loop import fit
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.rundir import RunDir
from jaxpo.train.signals import Preempted, Stop

Tree = Any
# Where a run lies and what is reported may change between two starts of it; nothing that is computed may.
MAY_CHANGE = ("name", "output_dir", "report_to", "prompts", "export")


def execute(run: Run, *, resume: str | int = "auto", restart: bool = False) -> int:
    """Train every stage of `run`, then export, verify and report; returns the process's exit code.

    Args:
      resume: "auto" continues where the run directory stands; "never" refuses one that holds work already; a number
        goes back to that step of the stage under way.
      restart: move an existing run directory aside first.

    Raises:
      JaxpoError: with a message for the user; nothing was lost.
    """
    check(run)
    check_patterns(run)
    primary = jax.process_index() == 0
    with RunDir(Path(run.output_dir) / run.name, restart=restart, primary=primary) as home, Stop() as stop:
        console = Console(primary=primary)
        if home.moved_to:
            console.say(f"the earlier run was moved to {home.moved_to}")
        home.forget_start()
        if resume == "never" and home.begun:
            raise RunError(f"{home.path} holds a run already; --restart moves it aside, --run NEW starts another")
        home.check_config(to_jsonable(run), ignore=MAY_CHANGE)
        if home.finished() is not None:
            console.say(home.finished_message())
            return 0
        mesh = make_mesh({axis: getattr(run.mesh, axis) for axis in AXES})
        rules = dict(run.mesh.rules)
        with (
            use_mesh(mesh, rules),
            console,
            MetricsLog(home.metrics, run.report_to, run_name=run.name, config=to_jsonable(run), primary=primary) as log,
        ):
            prepared = prepare_run(run, home.path, console.say)
            for name, data in prepared.stages.items():
                home.check_data(name, data.fingerprint())
            try:
                Runner(run, home, prepared, mesh, rules, console, log, stop).run_all(resume)
            except Preempted as preempted:
                console.say(str(preempted))
                return preempted.exit_code
    return 0


@dataclass
class Runner:
    """The state of a run between its stages."""

    run: Run
    home: RunDir
    prepared: Prepared
    mesh: DeviceMesh
    rules: Mapping[str, Any]
    console: Console
    log: MetricsLog
    stop: Stop

    def __post_init__(self) -> None:
        self.scorer = make_scorer(self.prepared.config, self.run.compute)
        self.results = Results(self.run, self.home, self.prepared, self.scorer, self.console)

    def run_all(self, resume: str | int) -> None:
        """Every stage that has not finished yet, then everything that follows the last one."""
        params = self._initial()
        self.results.after_stage(INITIAL, params, None)
        for stage in self.run.stages:
            folder = self.home.stage(stage.name)
            if has_model(folder):
                self.console.say(f"stage {stage.name} has finished already")
                previous, params = params, self._load(folder)
            else:
                previous = params
                began = time.perf_counter()
                if isinstance(stage, Merge):
                    params = self._merge(stage)
                else:
                    params = self._train(stage, params, resume)
                    resume = "auto"
                about = {"stage": stage.name, "trained_on": self._trained_on(stage)}
                save_model(folder, params, self.prepared.config, about)
                self.results.took(stage.name, time.perf_counter() - began)
            self.results.after_stage(stage.name, params, previous)
        self.home.finish(self.results.conclude(params))
        self.console.say(self.home.finished_message())

    def _initial(self) -> Tree:
        """Random or imported parameters of the model, placed on the mesh."""
        if self.run.model_from is not None:
            return {"model": load_model(self.run.model_from, self.mesh, self.rules).params["model"]}
        table = param_table(self.prepared.config)
        draw = jax.jit(lambda key: init_params(table, key), out_shardings=param_shardings(table, self.mesh, self.rules))
        return {"model": draw(jax.random.key(self.run.seed))}

    def _load(self, folder: Path) -> Tree:
        return load_model(folder, self.mesh, self.rules).params

    def _origin(self, stage: Stage) -> Path | None:
        """Folder of the model that a stage starts from; None for the run's own random weights."""
        if stage.init_from != "previous":
            named = self.home.path / "stages" / stage.init_from
            return named if has_model(named) else Path(stage.init_from)
        before = [s.name for s in self.run.stages[: self.run.stages.index(stage)]]
        if before:
            return self.home.stage(before[-1])
        return None if self.run.model_from is None else Path(self.run.model_from)

    def _first(self, base: Tree, assembly: Assembly) -> Tree:
        """First parameters of a stage: those it starts from where they fit, and fresh ones elsewhere."""
        tables = assembly.tables
        fits = {n: n in base and _shapes(base[n]) == _shapes(assembly.abstract.params[n]) for n in tables}
        key = jax.random.key(self.run.seed + 1)
        return {n: base[n] if fits[n] else init_params(table, key) for n, table in tables.items()}

    def _train(self, stage: Stage, previous: Tree, resume: str | int) -> Tree:
        data = self.prepared.stages[stage.name]
        folder = self.home.stage(stage.name)
        loader = self._loader(stage, data.train)
        assembly = assemble(stage, loader, self.scorer, self.mesh, self.rules)
        origin = self._origin(stage)
        base = previous if origin is None or stage.init_from == "previous" else self._load(origin)
        frozen, about = self._frozen(stage, base["model"], assembly)
        held_out = None if data.held_out is None else self._loader(in_order(stage), data.held_out)
        if cached_reference(stage):
            loader = self._with_reference(stage, data.train, base["model"], folder)
            if data.held_out is not None:
                held_out = self._with_reference(in_order(stage), data.held_out, base["model"], folder)
        evaluate = None
        if held_out is not None:
            batches = list(held_out.one_pass()[: math.ceil(stage.eval_rows / stage.rows_per_step)])
            evaluate = make_evaluation(assembly.objective, batches, assembly.put, frozen)
        store = CheckpointStore(folder / "checkpoints", keep=stage.save_total_limit)
        if isinstance(resume, int):
            _go_back(store, resume)
        _same_base(store, about)
        self.results.data_counts(stage.name, data)
        first = self._first(base, assembly)
        state = fit(
            stage=stage,
            total_steps=assembly.total_steps,
            init=lambda: init_state(assembly.abstract, first, assembly.optimizer, assembly.objective, self.run.seed),
            abstract=assembly.abstract,
            frozen=frozen,
            step=assembly.step,
            evaluate=evaluate,
            loader=loader,
            put=assembly.put,
            store=store,
            meta={"config": to_jsonable(self.run), "data": {"plan": loader.hash, **data.fingerprint()}, **about},
            log=self.log,
            console=self.console,
            stop=self.stop,
            on_nonfinite_dir=folder,
            flops_per_token=flops_per_token(stage, self.prepared.config, mean_context(data.train)),
        )
        if stage.lora is None:
            return state.params
        return self._merged_adapter(stage, base["model"], state.params, origin, about)

    def _frozen(self, stage: Stage, model: Tree, assembly: Assembly) -> tuple[Tree, dict[str, str]]:
        """The networks that a stage does not train, and what its checkpoints say of them.

        These are the very arrays that the stage starts from: `init_state` copies what it trains.
        """
        if stage.lora is not None:
            table = param_table(self.prepared.config)
            for line in describe_adapter(table, assembly.tables[ADAPTER], stage.lora):
                self.console.say(line)
            return {BASE: model}, {BASE: fingerprint(model)}
        moving = isinstance(stage, Preference) and stage.sync_ref_model
        if assembly.objective.needs.reference == "none" or cached_reference(stage) or moving:
            return {}, {}
        return {"reference": model}, {}

    def _merged_adapter(
        self, stage: Stage, base: Tree, params: Tree, origin: Path | None, about: Mapping[str, str]
    ) -> Tree:
        """Keep the adapter for `jaxpo export --adapter`, and hand on the plain model."""
        assert stage.lora is not None
        folder, config = self.home.stage(stage.name), self.prepared.config
        if origin is None:
            origin = folder / BASE_FOLDER
            save_model(origin, {"model": base}, config, {"stage": "initial", "trained_on": "nothing"})
        save_adapter(folder, params[ADAPTER], stage.lora, origin, about[BASE])
        model = merged(base, params[ADAPTER], stage.lora, config, self.mesh, self.rules)
        return {"model": model} | {name: group for name, group in params.items() if name != ADAPTER}

    def _loader(self, stage: Stage, dataset: Dataset, column: RaggedColumn | None = None) -> Loader:
        devices = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        return Loader(
            dataset,
            stage.data,
            seed=self.run.seed,
            rows_per_step=stage.rows_per_step,
            extra_per_token={} if column is None else {"ref_logps": column},
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            divisor=devices * stage.gradient_accumulation_steps,
        )

    def _with_reference(self, stage: Stage, dataset: Dataset, model: Tree, folder: Path) -> Loader:
        def make(column: RaggedColumn | None) -> Loader:
            return self._loader(stage, dataset, column)

        return reference_log_probs(self.scorer, model, make, folder / "reference", self.mesh, self.console.say)

    def _merge(self, stage: Merge) -> Tree:
        names = self._merged(stage)
        weights = effective_weights(len(names), stage.weights)
        self.console.say(f"{stage.name}: " + " + ".join(f"{w:.4g} x {n}" for w, n in zip(weights, names, strict=True)))
        models = [self._load(self.home.path / "stages" / name)["model"] for name in names]
        return {"model": soup(models, weights)}

    def _merged(self, stage: Merge) -> tuple[str, ...]:
        """Names of the stages that a merge averages; all trained ones when it names none."""
        return stage.models or tuple(s.name for s in self.run.stages if not isinstance(s, Merge))

    def _trained_on(self, stage: Stage | Merge) -> str:
        if isinstance(stage, Merge):
            parts = [s for s in self.run.stages if s.name in self._merged(stage)]
            return "; ".join(self._trained_on(s) for s in parts) + f" (average of {', '.join(s.name for s in parts)})"
        files = ", ".join(Path(f.removeprefix(CORPUS)).name for f in stage.data.train)
        return f"{files} ({len(self.prepared.stages[stage.name].train):,} examples)"


def _shapes(tree: Tree) -> Any:
    """Names and shapes of a tree's leaves."""
    return [(jax.tree_util.keystr(path), x.shape) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _same_base(store: CheckpointStore, about: Mapping[str, str]) -> None:
    """An adapter goes on beside the base it was trained beside, or not at all: its checkpoints do not hold the base."""
    if about and (latest := store.latest()) is not None and store.meta(latest).get(BASE) != about[BASE]:
        raise CheckpointError(
            f"{store.directory}: its checkpoints were trained beside another base than the one found now; put the "
            "model that the stage starts from back, or start over with --restart."
        )


def _go_back(store: CheckpointStore, step: int) -> None:
    """Continue from an earlier checkpoint: later ones are removed, so that they cannot be taken for newer."""
    if step not in store.steps():
        raise CheckpointError(f"--resume {step}: {store.directory} has checkpoints of steps {store.steps() or 'none'}")
    store.discard_after(step)


def in_order(stage: Stage) -> Stage:
    """The same stage reading its data in file order."""
    return dataclasses.replace(stage, data=dataclasses.replace(stage.data, shuffle=False))


def mean_context(dataset: Dataset) -> float:
    """Mean number of positions that a token attends to: half of its segment's length."""
    lengths = dataset.lengths.values.astype(float)
    return float((lengths**2).sum() / (2 * lengths.sum()))
