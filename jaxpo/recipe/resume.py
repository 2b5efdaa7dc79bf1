"""What of a run may change when it goes on: every field is bound unless it stands in this table. Imports no jax."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.config import Compute, Data, Images, Mixed, OptimizerBase, Run, Stage
from jaxpo.config.fields import BUDGETS, is_config
from jaxpo.config.places import places
from jaxpo.config.serialise import TYPE, read_again, to_jsonable
from jaxpo.recipe.located import identity

ABSENT = object()
NOTHING, ROUNDING = "changes nothing that is computed", "changes rounding only"
COMPARED = "its content is compared"
MAY_CHANGE: dict[type, dict[str, str]] = {
    Run: {
        "name": "",
        "output_dir": "",
        "mirror": NOTHING,
        "report_to": NOTHING,
        "prompts": NOTHING,
        "export": NOTHING,
        "prometheus": NOTHING,
        "alerts": NOTHING,
        "on_alert": NOTHING,
        "mesh": ROUNDING,
        **dict.fromkeys(("hang_timeout", "hang_exit"), NOTHING),
    },
    Stage: {
        "logging_steps": NOTHING,
        "eval_steps": NOTHING,
        "save_steps": NOTHING,
        "save_total_limit": NOTHING,
        "metric_for_best_model": NOTHING,
        "gradient_accumulation_steps": ROUNDING,
    },
    OptimizerBase: {"offload": NOTHING},
    Data: {"max_bad_rows": NOTHING},
    Images: {"cached": ROUNDING},
    Mixed: {"max_epochs": NOTHING},
    Compute: {
        **dict.fromkeys(("remat", "memory_gib", "scan", "attention", "head_chunk", "experts", "conv"), ROUNDING),
        "peak_tflops": NOTHING,
    },
}
"""Field -> what is said of its change; "" = where a run lies is not worth a word."""


@dataclass(frozen=True)
class Changes:
    """How a configuration differs from the one that a run began with.

    Attributes:
      said: one line for each change that is allowed.
      refused: one line for each that is not.
      budgets: names of the stages whose length changes, which their schedule may allow.
      compared: whether paths have changed whose content is yet to be compared.
    """

    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    compared: bool = False

    @property
    def open(self) -> bool:
        """Whether it is still to be seen that the run can go on so."""
        return bool(self.budgets) or self.compared


def compare(
    stored: Any, run: Run, *, bases: Collection[Path] = (), known: Mapping[str, str | None] | None = None
) -> Changes:
    """What has changed since a run began; fields that are newer than it stood at their defaults then.

    Args:
      stored: its configuration as JSON.
      bases: directories that its relative paths may be meant in.
      known: path -> `identity` of what lay there when the run began.
    """
    said, refused, budgets = [], [], []
    compared = False
    for path, old, new in differences(read_again(stored), json.loads(json.dumps(to_jsonable(run)))):
        owners = list(_owners(run, path))
        line = f"{dotted(run, path)}: {shown(old)} -> {shown(new)}"
        if any(name in BUDGETS for owner, name in owners if _is_a(owner, Stage)):
            budgets.append(str(_stage_of(run, path)))
            continue
        why = _allowed(owners)
        if why is None:
            why = _same_place(owners, old, new, bases, known or {})
        if why is None:
            refused.append(line)
        elif why:
            said.append(f"{line} ({why})")
        compared = compared or why == COMPARED
    return Changes(tuple(said), tuple(refused), tuple(dict.fromkeys(budgets)), compared)


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """`(path, old, new)` for every value that differs between two JSON documents."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(k for k in new if k not in old)]
        pairs = [(str(k), old.get(k, ABSENT), new.get(k, ABSENT)) for k in keys]
    elif isinstance(old, list) and isinstance(new, list):
        longest = max(len(old), len(new))
        padded = [[*x, *[ABSENT] * (longest - len(x))] for x in (old, new)]
        pairs = [(str(i), *both) for i, both in enumerate(zip(*padded, strict=True))]
    else:
        # 1 and 1.0 are the same number, true is none.
        if old != new or isinstance(old, bool) != isinstance(new, bool):
            yield path, old, new
        return
    for key, a, b in pairs:
        if not (key == TYPE and _same_type(a, b)):
            yield from differences(a, b, (*path, key))


def dotted(run: Run, path: tuple[str, ...]) -> str:
    """A path as the command line names it: `sft.optimizer.learning_rate`."""
    stage = _stage_of(run, path)
    return ".".join((stage, *path[2:]) if stage else path)


def shown(value: Any) -> str:
    """A JSON value in a message."""
    text = "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _owners(run: Run, path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """The dataclasses on the way to a value, each with the field that leads on, outermost first."""
    value: Any = run
    for word in path:
        if is_config(value):
            yield value, word
            value = getattr(value, word, None)
        elif isinstance(value, tuple) and int(word) < len(value):
            value = value[int(word)]
        else:
            return


def _is_a(owner: Any, cls: type) -> bool:
    return issubclass(type(owner), cls)


def _allowed(owners: list[tuple[Any, str]]) -> str | None:
    """Why a change is no matter; None where it is one."""
    found = (rules.get(name) for owner, name in owners for cls, rules in MAY_CHANGE.items() if _is_a(owner, cls))
    return next((why for why in found if why is not None), None)


def _same_place(
    owners: list[tuple[Any, str]], old: Any, new: Any, bases: Collection[Path], known: Mapping[str, str | None]
) -> str | None:
    """Why another path is no matter: the same file, or one with the same content. None where it is another."""
    owner, name = owners[-1]
    cls: Any = type(owner)
    mark = places(cls).get(name)
    if mark is None:
        return None
    texts = isinstance(old, str) and isinstance(new, str)
    if texts and any(os.path.abspath(base / old) == new for base in bases):
        return ""
    if mark.compared:
        return COMPARED
    if not texts or not os.path.exists(new):
        return None
    first = next((base / old for base in bases if (base / old).exists()), None)
    before = known.get(old) or (identity(first) if first is not None else None)
    return "the same content" if before is not None and before == identity(Path(new)) else None


def _stage_of(run: Run, path: tuple[str, ...]) -> str | None:
    """Name of the stage that a path leads into."""
    inside = len(path) > 2 and path[0] == "stages" and int(path[1]) < len(run.stages)
    return str(run.stages[int(path[1])].name) if inside else None


def _same_type(old: Any, new: Any) -> bool:
    """Whether two names of types are the same class; one of a configuration file may have moved with its file."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    (old_module, _, old_name), (new_module, _, new_name) = old.rpartition(":"), new.rpartition(":")
    files = old_module.endswith(".py") and Path(old_module).name == Path(new_module).name
    return old_name == new_name and (files or old_module == new_module)
