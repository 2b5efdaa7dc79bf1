"""lm-eval's tasks as `jaxpo eval` runs them: its task files, its metrics, the data on this machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxpo.errors import ConfigError, DataError, did_you_mean
from jaxpo.evaluate.tasks.base import Reader

if TYPE_CHECKING:
    from jaxpo.evaluate.results import TaskResult
    from jaxpo.evaluate.runner import Say
    from jaxpo.evaluate.subject import Subject


@dataclass(frozen=True)
class Harness:
    """One task, group or tag of lm-eval.

    Attributes:
      source: its name.
      limit: use the first so many examples of each task.
      shots: solved examples before every question; None = as the task file says.
      chat: whether prompts are put into the chat template, shots as turns.
      include: folder of task files of one's own.
      seed: of the choice of shots, and of draws.
    """

    NAME: ClassVar[str] = "lm_eval"
    ABOUT: ClassVar[str] = "a task of lm-evaluation-harness, with its own metrics"
    NEEDS: ClassVar[str] = "the task's name; its data must be on this machine"
    SOURCE: ClassVar[str] = "TASK"
    OPTIONAL: ClassVar[bool] = False
    asks: ClassVar[bool] = True

    source: str | None = None
    limit: int | None = None
    shots: int | None = None
    chat: bool = False
    include: str | None = None
    seed: int = 1234

    @classmethod
    def installed(cls) -> bool:
        """Whether lm-eval is there."""
        return importlib.util.find_spec("lm_eval") is not None

    @classmethod
    def knows(cls, name: str, include: str | None) -> bool:
        """Whether lm-eval has something of this name."""
        return mentioned(name, include) and name in manager(name, include).all_tasks

    @classmethod
    def includes(cls, name: str, include: str | None) -> bool:
        """Whether one's own folder has."""
        return include is not None and Path(include).is_dir() and name in own(include).all_tasks

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings."""
        if not self.source:
            yield f"--tasks {self.NAME}: needs the name of a task; write {self.NAME}:TASK."
        if self.limit is not None and self.limit < 1:
            yield f"{self.NAME}.limit: {self.limit} must be at least 1."
        if self.shots is not None and self.shots < 0:
            yield f"{self.NAME}.shots: {self.shots} must be at least 0."
        if self.include is not None and not Path(self.include).is_dir():
            yield f"--include {self.include}: there is no such folder."

    def read(self) -> Loaded:
        """The task with its data.

        Raises:
          ConfigError: lm-eval is not installed or has no such task.
          DataError: the data is not on this machine; says what would be fetched and where to put it.
        """
        if not self.installed():
            raise ConfigError(f"--tasks {self.NAME}: lm-eval is not installed: pip install 'jaxpo[eval]'.")
        name = self.source or ""
        if not self.knows(name, self.include):
            names = re.findall(r"^(?:task|group): *([\w.-]+) *$", texts(self.include), re.MULTILINE)
            raise ConfigError(f"--tasks {self.NAME}:{name}: lm-eval has no such task.{did_you_mean(name, names)}")
        found = manager(name, self.include)
        try:
            self.load()
        except OSError as error:
            raise absent(name, found.task_index[name].cfg or {}, error) from error
        return Loaded(self)

    def load(self) -> Any:
        """The task's data and its settings, as lm-eval wants them; seeded, for some tasks shuffle."""
        random.seed(self.seed)
        np.random.seed(self.seed)  # noqa: NPY002  what the task files draw from
        loaded = manager(self.source or "", self.include).load([self.source])
        for task in loaded["tasks"].values():
            shots = task.get_config("num_fewshot") if self.shots is None else self.shots
            task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=self.seed)
        return loaded


@dataclass(frozen=True)
class Loaded:
    """A task whose data is there."""

    task: Harness

    def ask(self, reader: Reader) -> Loaded:
        """Itself: lm-eval makes the prompts when it runs, and the adapter checks that they fit."""
        return self

    def alone(self) -> list[TaskResult]:
        """None: whoever asks for this task names a model, or is told to."""
        raise ConfigError(f"--tasks {self.task.NAME}:{self.task.source}: asks a model; name one.")

    def run(self, subject: Subject, say: Say) -> list[TaskResult]:
        """lm-eval's evaluation of the model, task by task."""
        from lm_eval.evaluator import evaluate

        from jaxpo.evaluate.harness.adapter import JaxpoLM
        from jaxpo.evaluate.harness.results import task_results

        task, start = self.task, time.perf_counter()
        label = f"{task.NAME}:{task.source}"
        # Not `simple_evaluate`, which asks git and, where it is installed, torch.
        found = evaluate(
            JaxpoLM(subject, functools.partial(say, label), task.seed),
            self.task.load(),
            limit=task.limit,
            apply_chat_template=task.chat,
            fewshot_as_multiturn=task.chat,
            bootstrap_iters=0,
            log_samples=True,
        )
        template = subject.reader.tokenizer.template if task.chat else ""
        return task_results(found, asdict(task), template, time.perf_counter() - start)


def mentioned(name: str, include: str | None) -> bool:
    """Whether any task file holds the name; a second, where the index of all takes half a minute."""
    return name in texts(include)


@functools.lru_cache(maxsize=2)
def texts(include: str | None) -> str:
    """The task files, those of one's own folder among them, one after another."""
    spec = importlib.util.find_spec("lm_eval")
    folders = [Path(place) / "tasks" for place in (spec and spec.submodule_search_locations) or ()]
    folders += [Path(include)] if include is not None else []
    paths = [path for folder in folders for path in sorted(folder.rglob("*.y*ml"))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


@functools.lru_cache(maxsize=4)
def manager(name: str, include: str | None) -> Any:
    """lm-eval's index of tasks: that of one's own folder where it has the name, else with all that come with it.

    The data is looked for on this machine alone, unless HF_HUB_OFFLINE=0 is set.
    """
    return own(include) if Harness.includes(name, include) and include else _all(include)


@functools.lru_cache(maxsize=2)
def own(include: str) -> Any:
    """The index of one's own folder."""
    return _index(include_path=include, include_defaults=False)


@functools.lru_cache(maxsize=2)
def _all(include: str | None) -> Any:
    # Half a minute: fourteen thousand task files.
    return _index(include_path=include)


def _index(**options: Any) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lm_eval.tasks import TaskManager

    return TaskManager(**options)


def absent(name: str, config: Mapping[str, Any], error: OSError) -> DataError:
    """The error for data that is not on this machine."""
    path, part = config.get("dataset_path"), config.get("dataset_name")
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files:
        return DataError(f"its data is not there: {files}.", file=f"lm_eval:{name}", remedy=f"{error}")
    what = f"dataset {path}{f' ({part})' if part else ''} of the Hugging Face Hub" if path else "a dataset of the Hub"
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return DataError(
        f"its data is not on this machine: lm-eval would fetch the {what} ({error}).",
        file=f"lm_eval:{name}",
        remedy=(
            f"Where there is a network: hf download --repo-type dataset {path or 'NAME'}; then copy {home}/hub here. "
            "Or set HF_HUB_OFFLINE=0 to let it be fetched. Or write a task file on local JSONL and name its folder "
            "with --include (docs/evaluation.md)."
        ),
    )
