"""Work stages: they train nothing and write files for the stages after them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxpo.config import Work
from jaxpo.construct.context import WorkContext
from jaxpo.convert.model_io import load_model
from jaxpo.errors import RunError
from jaxpo.evaluate.picture import PICTURES, TABLES
from jaxpo.recipe.lineage import seed_of
from jaxpo.sharding.turns import by_first_process, own_devices, works_alone
from jaxpo.stages.setting import Setting
from jaxpo.train.files import read_json, write_json
from jaxpo.train.signals import Preempted, stopper

REPORT = "work.json"
DONE, SECONDS, STOPPED = "report", "seconds", "stopped"


def report_of(folder: Path) -> dict[str, Any] | None:
    """What a work stage reported; None = it has not ended."""
    report: dict[str, Any] | None = read_json(folder / REPORT)
    return report


def work(setting: Setting, stage: Work) -> tuple[dict[str, Any], float | None]:
    """The report of a work stage, which it runs or goes on with, and the seconds of that; None = it had ended before.

    It asks judges, draws answers and writes files one after another: of several processes the first does it, on its own
    devices, and the others wait.

    Raises:
      RunError: it ended without a file that it promised.
      Preempted: a signal asked for a stop; the next start goes on from what the stage has written.
    """
    found = by_first_process(lambda: _by_this_process(setting, stage))
    if STOPPED in found:
        raise Preempted(*found[STOPPED])
    return found[DONE], found.get(SECONDS)


def told(report: Mapping[str, Any]) -> Iterator[str]:
    """What a report says, in lines: its counts, its tables in columns, and the titles of its charts."""
    from jaxpo.evaluate.report.compare import aligned

    for name, value in report.items():
        if name == TABLES:
            for one in value:
                cells = [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row] for row in one["rows"]]
                yield from [one["title"], *aligned([one["head"], *cells]).splitlines()]
        elif name == PICTURES:
            yield "in report.html: " + ", ".join(one["title"] for one in value)
        else:
            yield f"{name} {value}"


def _by_this_process(setting: Setting, stage: Work) -> dict[str, Any]:
    """Its report; or why it stopped and by which signal, for the other processes stop with this one."""
    folder = setting.home.stage(stage.name)
    report = report_of(folder)
    if report is not None:
        return {DONE: report}
    began = time.perf_counter()
    try:
        with own_devices() if works_alone() else contextlib.nullcontext(setting.mesh) as mesh:
            report = stage.run(_context(setting, stage, folder, mesh))
    except Preempted as preempted:
        return {STOPPED: [str(preempted), preempted.exit_code - 128]}
    missing = [name for name in stage.outputs() if not (folder / name).is_file()]
    if missing:
        raise RunError(f"stage {stage.name}: {type(stage).__name__} ended without writing {', '.join(missing)}")
    write_json(folder / REPORT, report)
    return {DONE: report, SECONDS: time.perf_counter() - began}


def _context(setting: Setting, stage: Work, folder: Path, mesh: Mesh) -> WorkContext:
    return WorkContext(
        folder=folder,
        run_dir=setting.home.path,
        seed=seed_of(setting.run, stage),
        tokenizer=setting.inputs.tokenizer,
        config=setting.inputs.config,
        scorer=setting.scorer,
        say=setting.console.say,
        check=stopper(setting.stop, stage.name),
        load=lambda path: load_model(path, mesh, setting.rules),
        resolve=setting.inputs.resolve,
        stages=tuple(setting.with_models(stage)),
    )
