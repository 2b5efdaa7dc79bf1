"""NAME -> task. A task's module is imported when the task is asked for: what it needs may be an extra."""

from __future__ import annotations

import importlib
from typing import Any

from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.evaluate.tasks.base import Task

TASKS = {
    "perplexity": "jaxpo.evaluate.tasks.text:Perplexity",
    "bits_per_byte": "jaxpo.evaluate.tasks.text:BitsPerByte",
    "multiple_choice": "jaxpo.evaluate.tasks.multiple_choice:MultipleChoice",
    "ranking": "jaxpo.evaluate.tasks.ranking:Ranking",
    "reward": "jaxpo.evaluate.tasks.reward:Reward",
    "alpaca": "jaxpo.evaluate.tasks.alpaca:Alpaca",
    "exact_match": "jaxpo.evaluate.tasks.exact_match:ExactMatch",
    "gsm8k": "jaxpo.evaluate.tasks.gsm8k:GSM8K",
    "ifeval": "jaxpo.evaluate.tasks.ifeval:IFEval",
    "ifbench": "jaxpo.evaluate.tasks.ifbench:IFBench",
    "retrieval": "jaxpo.evaluate.tasks.retrieval:Retrieval",
    "needle": "jaxpo.evaluate.tasks.needle:Needle",
    "reasoning_gym": "jaxpo.evaluate.tasks.reasoning_gym:ReasoningGym",
}
"""Name -> `module:class`."""


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task.

    Raises:
      ConfigError: no task has this name.
    """
    if name not in TASKS:
        raise ConfigError(
            f"--tasks: there is no task {name!r}.{did_you_mean(name, TASKS)} `jaxpo eval --list` lists them."
        )
    module, _, member = TASKS[name].partition(":")
    found: type[Task[Any]] = getattr(importlib.import_module(module), member)
    return found
