"""What all stages of one run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh as DeviceMesh

from jaxpo.config import RecipePart, Run, Stage
from jaxpo.convert.kept import has_model
from jaxpo.convert.model_io import load_model
from jaxpo.convert.reader import REWARD, Reader
from jaxpo.convert.retriever import RETRIEVER, Retriever
from jaxpo.data.images.captions import SEGMENTS
from jaxpo.data.images.users import SET_ASIDE, USERS
from jaxpo.judges.network import Network
from jaxpo.models.family import TextConfig, limits, param_table
from jaxpo.models.spec import init_params, param_shardings
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.retrieval import RetrievalMethod
from jaxpo.objectives.methods.rewards import RewardMethod
from jaxpo.recipe.kinds import kind_of, method_of
from jaxpo.recipe.lineage import PREVIOUS, RANDOM, merged_names, with_models
from jaxpo.sharding.turns import first_process_first
from jaxpo.stages.assemble import make_scorer
from jaxpo.stages.beginning import check_data
from jaxpo.stages.results import Results
from jaxpo.stages.run_inputs import CORPUS, RunInputs
from jaxpo.train.chips import peak_flops
from jaxpo.train.console import Console
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.mirror import Mirror
from jaxpo.train.profile_range import ProfileRange
from jaxpo.train.rundir import RunDir
from jaxpo.train.signals import Stop
from jaxpo.train.watching import Watching

Tree = Any


@dataclass
class Setting:
    """A run under way."""

    run: Run
    home: RunDir
    inputs: RunInputs
    mesh: DeviceMesh
    rules: Mapping[str, Any]
    console: Console
    log: MetricsLog
    stop: Stop
    profile: ProfileRange | None = None
    watching: Watching = field(default_factory=Watching)
    mirror: Mirror = field(default_factory=Mirror)
    scorer: Scorer = field(init=False)
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.scorer = make_scorer(self.inputs.config, self.run.compute)
        self.results = Results(self.run, self.home, self.inputs, self.console)

    def config(self, stage: RecipePart) -> TextConfig:
        """Architecture of the model that a stage leaves."""
        if stage.TRAINS:
            return self.inputs.config_of(stage.name)
        parts = self.merged(stage)
        return self.config(parts[0]) if parts else self.inputs.config

    def scorer_of(self, stage: RecipePart) -> Scorer:
        """How that model is evaluated."""
        return make_scorer(self.config(stage), self.run.compute)

    def peak_flops(self) -> float | None:
        """Dense FLOP/s that a device could reach in the type of the run; None where nobody says."""
        kind = self.mesh.devices.flat[0].device_kind
        return peak_flops(kind, self.scorer.dtype, self.run.compute.peak_tflops)

    def random(self, config: TextConfig, seed: int) -> Tree:
        """Fresh parameters of a model, placed on the run's mesh; the same for the same shape and seed."""
        table, key = param_table(config), jax.random.key(seed)
        shardings = param_shardings(table, self.mesh, self.rules)
        if self.mesh.size == 1:
            # Parameter by parameter: those of one shape share a program, where one for all of them would hold the
            # generator as often as there are parameters, and take half as long to compile as a training step.
            return {"model": jax.device_put(init_params(table, key), shardings)}
        return {"model": jax.jit(lambda key: init_params(table, key), out_shardings=shardings)(key)}

    def load(self, folder: Path) -> Tree:
        """Parameters of a finished stage or of a checkpoint elsewhere, placed on the run's mesh."""
        return load_model(folder, self.mesh, self.rules).params

    def network(self, name: str) -> Network:
        """An earlier stage's model with its heads, ready to score all that it has positions for; "previous" is the
        last of those that are there."""
        ready = [s.name for s in self.run.stages if s.LEAVES_MODEL and has_model(self.home.stage(s.name))]
        folder = self.home.stage(ready[-1]) if name == "previous" and ready else self.model_folder(name)
        loaded = load_model(folder, self.mesh, self.rules)
        how = {"dtype": self.scorer.dtype, "max_length": limits(loaded.config).context}
        return Network.of(loaded, tokenizer=self.inputs.tokenizer, **how)

    def prepare(self, stage: Stage) -> None:
        """Tokenise a stage's data, unless that was possible before the first stage."""
        if stage.name not in self.inputs.stages:
            data = first_process_first(lambda: self.inputs.of(stage))
            check_data(self.home, stage.name, data)

    def with_models(self, before: RecipePart) -> list[str]:
        """Names of the stages before one that leave a model, in order."""
        return [s.name for s in with_models(self.run, self.run.stages.index(before))]

    def origin(self, stage: Stage) -> Path | None:
        """Folder of the model that a stage starts from; None where none holds it: random weights, or added rows."""
        if stage.init_from == RANDOM:
            return None
        if stage.init_from != PREVIOUS:
            return self.model_folder(stage.init_from)
        before = self.with_models(stage)
        if before:
            return self.home.stage(before[-1])
        return None if self.run.model_from is None or self.inputs.added_ids else Path(self.run.model_from)

    def merged(self, stage: RecipePart) -> list[RecipePart]:
        """The stages that a merge is made of, its base not among them."""
        return [s for s in self.run.stages if s.LEAVES_MODEL and s.name in merged_names(self.run, stage)]

    def model_folder(self, name: str) -> Path:
        """Where the model of an earlier stage lies, or the folder that the name is."""
        named = self.home.path / "stages" / name
        return named if has_model(named) else Path(name)

    def about(self, stage: Any) -> dict[str, Any]:
        """What a stage's model says of itself."""
        about: dict[str, Any] = {"stage": stage.name, "trained_on": self.trained_on(stage)}
        if stage.TRAINS and kind_of(stage).runs == "denoise":
            about |= self._about_images(stage)
        if (reader := reader_of_stage(stage)) is not None:
            about[REWARD] = reader.as_json()
        if (retriever := retriever_of_stage(stage)) is not None:
            about[RETRIEVER] = retriever.as_json()
        return about

    def _about_images(self, stage: Any) -> dict[str, Any]:
        """What drawing with a stage's model needs to know: users as the data made them, and pieces of captions."""
        found: dict[str, Any] = {}
        if self.inputs.of(stage).train.counts.get(SET_ASIDE):
            found[USERS] = asdict(stage.images.users)
        if stage.images.segments > 1:
            found[SEGMENTS] = stage.images.segments
        return found

    def trained_on(self, stage: Any) -> str:
        """Files and number of examples behind a stage's model."""
        if not stage.TRAINS:
            parts = self.merged(stage)
            return "; ".join(self.trained_on(s) for s in parts) + f" (merge of {', '.join(s.name for s in parts)})"
        files = ", ".join(Path(f.removeprefix(CORPUS)).name for f in stage.data.files)
        return f"{files} ({len(self.inputs.of(stage).train):,} examples)"


def reader_of_stage(stage: Any) -> Reader | None:
    """How the rewards of a stage's model are read; None where it trains no reward model."""
    method = method_of(stage) if stage.TRAINS else None
    if not isinstance(method, RewardMethod):
        return None
    return Reader(method, **kind_of(stage).scoring(stage))


def retriever_of_stage(stage: Any) -> Retriever | None:
    """How a stage's model finds texts; None where it trains no retriever."""
    method = method_of(stage) if stage.TRAINS else None
    return Retriever(stage.texts, method.head) if isinstance(method, RetrievalMethod) else None
