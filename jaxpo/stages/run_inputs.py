"""What a run reads, made ready before anything expensive starts: corpus, tokenizer, data of every stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.config import Data, Run, Stage
from jaxpo.convert.model_io import check_files, read_config
from jaxpo.data.images.dataset import ImageDataset, ImageShape
from jaxpo.data.images.forms import check_forms
from jaxpo.data.images.prepare import prepare_images
from jaxpo.data.packing.curriculum import curriculum_order, read_difficulties
from jaxpo.data.packing.spread import spread_order
from jaxpo.data.rows import bad_rows
from jaxpo.data.rows.files.listing import list_files, unsaid
from jaxpo.data.rows.files.remote import fetch, is_remote, place_of
from jaxpo.data.rows.files.splits import Part
from jaxpo.data.rows.records import first_row
from jaxpo.data.rows.requirements import check_needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer, check_vocabulary
from jaxpo.data.tokens.prepare import Dataset, prepare
from jaxpo.data.tokens.preview import Preview
from jaxpo.data.tokens.seeing import seeing
from jaxpo.data.tokens.shards import ALONE, Team
from jaxpo.data.tokens.shares import Share, shares_of
from jaxpo.errors import ConfigError, DataError
from jaxpo.models.family import TextConfig, limits, preset
from jaxpo.recipe.checks.denoise import adapter_problem, users_problem
from jaxpo.recipe.kinds import ids_of, kind_of, method_of
from jaxpo.recipe.lineage import descent, trained, with_additions
from jaxpo.stages.added_tokens import added_ids, with_room
from jaxpo.stages.column_values import check_metric, check_values
from jaxpo.stages.run_generation_config import keep_generation_of_start
from jaxpo.stages.run_tokenizer import Say, run_tokenizer

CORPUS, STAGE = "corpus:", "stage:"


@dataclass(frozen=True)
class StageData:
    """Tokenised training and held-out examples of one stage."""

    train: Dataset
    held_out: Dataset | None

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that rows belong to: those of the training rows, then the held-out rows' own."""
        return (self.held_out or self.train).names.get("group", ()) or self.train.names.get("group", ())

    def fingerprint(self) -> dict[str, Any]:
        """What the run directory remembers, to notice changed files."""
        return {"train": self.train.hash, "eval": self.held_out.hash if self.held_out else None}


@dataclass(frozen=True)
class ImageStageData(StageData):
    """Training and held-out images of one stage."""

    train: ImageDataset  # type: ignore[assignment]
    held_out: ImageDataset | None  # type: ignore[assignment]

    @property
    def groups(self) -> tuple[str, ...]:
        """Images belong to none."""
        return ()


@dataclass(frozen=True)
class RunInputs:
    """A run's inputs.

    Attributes:
      directory: of the run.
      stages: stage name -> data, of the trained stages whose data are there already.
      config: of the run's model.
      own_configs: stage name -> architecture, of the stages that have their own.
      corpus: what `Run.corpus.build` reported.
      seed: of the run; a curriculum draws with it unless the stage has its own.
      own_configs: architectures of stages that have their own.
      added_ids: see `jaxpo.stages.added_tokens`.
    """

    directory: Path
    say: Say
    tokenizer: Tokenizer
    config: TextConfig
    stages: dict[str, StageData] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    own_configs: dict[str, TextConfig] = field(default_factory=dict)
    added_ids: tuple[int, ...] = ()

    def of(self, stage: Stage, team: Team = ALONE) -> StageData:
        """A stage's data; tokenised now when a work stage had to write it first."""
        if stage.name not in self.stages:
            self.say(f"data of stage {stage.name}")
            team.first(lambda: fetch(files_of(stage), self.directory / "data", self.say))
            curriculum, difficulties = stage.data.curriculum, {}
            if curriculum is not None:
                difficulties = read_difficulties(self.resolve(stage.data.files), curriculum)
            read = DATA_OF[kind_of(stage).runs]
            data = read(stage, self.tokenizer, self.config_of(stage.name), self.directory, self.say, team)
            if curriculum is not None:
                seed = self.seed if stage.seed is None else stage.seed
                order = curriculum_order(data.train, difficulties, curriculum, seed)
                data = dataclasses.replace(data, train=dataclasses.replace(data.train, order=order))
            if stage.data.spread_groups:
                seed = self.seed if stage.seed is None else stage.seed
                spread = spread_order(data.train, seed, balanced=stage.data.balance_groups)
                data = dataclasses.replace(data, train=dataclasses.replace(data.train, order=spread))
            self.stages[stage.name] = data
        return self.stages[stage.name]

    def ready(self, stage: Any, team: Team = ALONE) -> None:
        """Make a stage's data, and see that it can use every row; DataError names the first that it cannot."""
        if stage.TRAINS:
            self.of(stage, team)
        elif kind_of(stage).runs == "work":
            team.first(lambda: fetch(stage.inputs(), self.directory / "data", self.say))
            stage.check_inputs([Path(name) for name in self.resolve(stage.inputs())])

    def foresee(self, stage: Any) -> None:
        """See of a stage that waits for the files of others that its own held-out ones hold what it needs.

        Raises:
          DataError: the first row lacks something, as `ready` would say after the stages before it.
        """
        named = stage.data.eval if stage.TRAINS else ()
        if not named or any(name.startswith(STAGE) or is_remote(name) for name in named):
            return
        CHECK_OF[kind_of(stage).runs](stage, self.resolve(named))

    def config_of(self, stage: str) -> TextConfig:
        """Architecture of a trained stage."""
        return self.own_configs.get(stage, self.config)

    def resolve(self, files: Sequence[str]) -> tuple[str, ...]:
        """Paths of data files as configurations name them."""
        return resolve_files(files, self.directory)


def make_inputs(run: Run, directory: Path, say: Say, team: Team = ALONE) -> RunInputs:
    """Build the corpus, load or train the tokenizer, tokenise every stage's files.

    Args:
      team: all processes of the run, which share the tokenising.

    Raises:
      CheckpointError: files of `model_from` that are incomplete, or of another model than they say.
      DataError, ConfigError: the first file, row and field that cannot be used.
    """
    inputs = team.first(lambda: _without_data(run, directory, say))
    for stage in run.stages:
        if waits(stage):
            inputs.foresee(stage)
        else:
            inputs.ready(stage, team)
    return inputs


def _without_data(run: Run, directory: Path, say: Say) -> RunInputs:
    """Corpus and tokenizer; the data are tokenised afterwards."""
    if run.model_from is not None:
        check_files(run.model_from)
    report: dict[str, Any] = {}
    if run.corpus is not None:
        report = run.corpus.build(directory / "corpus")
        say(f"corpus: {', '.join(f'{k} {v}' for k, v in report.items() if isinstance(v, str))}")
        for line in report.get("lines", ()):
            say(line)
    fetch(run.tokenizer.train_on, directory / "data", say)
    if run.tokenizer.path is not None:
        (path,) = resolve_files((run.tokenizer.path,), directory)
        run = dataclasses.replace(run, tokenizer=dataclasses.replace(run.tokenizer, path=path))
    tokenizer = run_tokenizer(run, directory, resolve_files(run.tokenizer.train_on, directory), say)
    keep_generation_of_start(run, directory, tokenizer, say)
    ids = added_ids(run, tokenizer)
    config = with_room(model_config(run), ids)
    if ids:
        more = "" if config == model_config(run) else f", for which the vocabulary grows to {config.vocab_size}"
        say(f"{len(ids)} tokens are new to {run.model_from}: their rows start at the mean of all others'{more}")
    given = {s.name: config if s.model is None else as_config(s.model) for s in trained(run)}
    models = {s.name: with_additions(given[s.name], *descent(run, s)) for s in trained(run)}
    own = {name: model for name, model in models.items() if model != config}
    for each in (config, *own.values()):
        if vocabulary := limits(each).vocabulary:  # a model that denoises may read states of texts alone
            check_vocabulary(tokenizer, vocabulary)
    return RunInputs(directory, say, tokenizer, config, {}, report, run.seed, own, ids)


def files_of(stage: Any) -> tuple[str, ...]:
    """The data files that a stage reads, as the configuration names them."""
    if stage.TRAINS:
        return (*stage.data.files, *stage.data.eval)
    return tuple(stage.inputs()) if kind_of(stage).runs == "work" else ()


def waits(stage: Any) -> bool:
    """Whether a stage reads files that another stage of the run writes."""
    return any(name.startswith(STAGE) for name in files_of(stage))


def model_config(run: Run) -> TextConfig:
    """The architecture: that of `model_from`, the named preset, or the configuration given."""
    if run.model_from is not None:
        return read_config(run.model_from)
    return as_config(run.model)


def as_config(model: Any) -> TextConfig:
    """A preset by its name, or the configuration itself."""
    return preset(model) if isinstance(model, str) else model


def resolve_files(files: Sequence[str], directory: Path) -> tuple[str, ...]:
    """Where "corpus:FILE" and "stage:NAME/FILE" are written by the run, and the copies of remote files are kept."""
    return tuple(str(_resolved(name, directory)) for name in files)


def _resolved(name: str, directory: Path) -> Path:
    if is_remote(name):
        return place_of(name, directory / "data")
    if name.startswith(CORPUS):
        return directory / "corpus" / name.removeprefix(CORPUS)
    return directory / "stages" / name.removeprefix(STAGE) if name.startswith(STAGE) else Path(name)


def _stage_data(
    stage: Stage, tokenizer: Tokenizer, config: TextConfig, directory: Path, say: Say, team: Team
) -> StageData:
    context = limits(config).context
    if stage.data.max_length > context:
        raise ConfigError(
            f"{stage.name}.data.max_length={stage.data.max_length} exceeds the model's context of {context}; lower it"
        )
    kind, method = kind_of(stage), method_of(stage)
    ids_of(stage, tokenizer)  # what the vocabulary lacks is said before anything is read

    def load(files: tuple[str, ...], settings: Any, part: Part, names: Any = None) -> Dataset:
        return prepare(
            resolve_files(files, directory),
            data=settings,
            tokenizer=tokenizer,
            purpose=kind.purpose,
            needs=kind.asks(method),
            cache_dir=directory / "data",
            log=say,
            names=names,
            part=part,
            team=team,
        )

    cut = seeing(kind.data(stage), tokenizer, config, say)
    train = load(stage.data.files, cut, "train")
    if stage.data.mix:
        train = dataclasses.replace(train, shares=_shares(stage, train, directory))
    check_values(train, method)
    say(str(Preview(train, 1)))
    held_out = None
    if stage.data.eval:
        # Held-out rows are never a reason to stop: what does not fit is left out and counted.
        # They are read as they stand, whatever the training documents are rearranged for.
        lenient = dataclasses.replace(cut, truncation=_lenient(cut), fim=None)
        held_out = load(stage.data.eval, lenient, "eval", train.names)
        check_metric(held_out, stage)
    kind.check_rows(stage, train, held_out)
    return StageData(train, held_out)


def _images_of_stage(stage: Any, tokenizer: Tokenizer, config: Any, directory: Path, say: Say, team: Team) -> StageData:
    """Training and held-out images; the first process reads them, and the others find what it kept."""
    method: Any = method_of(stage)  # of images
    words = limits(config).context
    if words and stage.data.max_length > words:
        raise ConfigError(
            f"{stage.name}.data.max_length={stage.data.max_length} exceeds the {words} tokens that the model's text "
            "tower reads; lower it"
        )
    if problem := users_problem(stage, config) or adapter_problem(stage, config):
        raise ConfigError([problem])
    channels, states = config.in_channels, getattr(config, "context_channels", 0)
    adapter = getattr(config, "text_adapter", None)
    size = stage.images.size or config.sample_size
    shape = ImageShape(size, channels, states, words, 0 if adapter is None else adapter.channels)

    def load(files: tuple[str, ...], part: Part, reward_range: tuple[float, float] | None) -> ImageDataset:
        return team.first(
            lambda: prepare_images(
                resolve_files(files, directory),
                data=stage.data,
                images=stage.images,
                shape=shape,
                tokenizer=tokenizer,
                needs=method.NEEDS,
                cache_dir=directory / "data",
                log=say,
                part=part,
                reward_range=reward_range,
                method=method.INFO.name,
                words=method.READS_WORDS,
            )
        )

    train = load(stage.data.files, "train", None)
    held_out = load(stage.data.eval, "eval", train.reward_range) if stage.data.eval else None
    return ImageStageData(train, held_out)


DATA_OF = {"train": _stage_data, "denoise": _images_of_stage}
"""`Kind.runs` -> how such a stage's data are read."""


def _rows_hold(stage: Any, files: Sequence[str]) -> None:
    """DataError: the first of a stage's held-out rows lacks what its method reads."""
    found, kind = list_files(files, part="eval", say=unsaid), kind_of(stage)
    first = first_row(found, bad_rows.unsaid if stage.data.on_bad_row == "skip" else bad_rows.refuse)
    check_needs(first, kind.purpose, kind.asks(method_of(stage)))


def _images_hold(stage: Any, files: Sequence[str]) -> None:
    """DataError: a stage's held-out files hold pairs, single images or captions alone, and its method reads others."""
    method = method_of(stage)
    check_forms(files, method.NEEDS, method.INFO.name)


CHECK_OF = {"train": _rows_hold, "denoise": _images_hold}
"""`Kind.runs` -> how its held-out files are looked at before the others are there."""


def _shares(stage: Stage, train: Dataset, directory: Path) -> tuple[Share, ...]:
    """The sources of a stage's mixture.

    Raises:
      DataError: a file that two of them name, a source without any example.
    """
    sources, owner = [], dict[Path, str]()
    for name, mixed in stage.data.mix:
        files = list_files(resolve_files(mixed.files, directory), say=unsaid)
        for file in files:
            if (other := owner.setdefault(file.resolve(), name)) != name:
                remedy = "Name every file in one source."
                raise DataError(f"is in two sources of data.mix, {other!r} and {name!r}.", file=file, remedy=remedy)
        sources.append((name, mixed, files))
    return shares_of(train.store, sources)


def _lenient(data: Data) -> Any:
    return "drop" if data.truncation == "error" else data.truncation
