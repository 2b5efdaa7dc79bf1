"""Work stages: they train nothing and write files for the stages after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxpo.config import Run, Work
from jaxpo.construct.context import WorkContext
from jaxpo.convert.model_io import load_model
from jaxpo.errors import RunError
from jaxpo.recipe.lineage import seed_of
from jaxpo.stages.setting import Setting
from jaxpo.train.files import read_json, write_json
from jaxpo.train.signals import stopper

REPORT = "work.json"


def check_alone(run: Run) -> None:
    """Work stages write their files one after another: of several processes each would write the same ones.

    Raises:
      RunError: the run has a work stage and several processes.
    """
    found = [stage.name for stage in run.stages if not stage.LEAVES_MODEL]
    if found and (processes := jax.process_count()) > 1:
        raise RunError(
            f"stage {', '.join(found)} makes files, which is the work of one process, and this run has {processes}; "
            "run the stages up to it in one process (JAX_NUM_PROCESSES=1), then those after it in a run of their own"
        )


def report_of(folder: Path) -> dict[str, Any] | None:
    """What a work stage reported; None = it has not ended."""
    report: dict[str, Any] | None = read_json(folder / REPORT)
    return report


def work(setting: Setting, stage: Work) -> dict[str, Any]:
    """Run a work stage, or go on with it, and keep its report.

    Raises:
      RunError: it ended without a file that it promised.
      Preempted: a signal asked for a stop; the next start goes on from what the stage has written.
    """
    folder = setting.home.stage(stage.name)
    report = stage.run(_context(setting, stage, folder))
    missing = [name for name in stage.outputs() if not (folder / name).is_file()]
    if missing:
        raise RunError(f"stage {stage.name}: {type(stage).__name__} ended without writing {', '.join(missing)}")
    if setting.home.primary:
        write_json(folder / REPORT, report)
    return report


def _context(setting: Setting, stage: Work, folder: Path) -> WorkContext:
    return WorkContext(
        folder=folder,
        run_dir=setting.home.path,
        seed=seed_of(setting.run, stage),
        tokenizer=setting.inputs.tokenizer,
        config=setting.inputs.config,
        scorer=setting.scorer,
        say=setting.console.say,
        check=stopper(setting.stop, stage.name),
        load=lambda path: load_model(path, setting.mesh, setting.rules),
        resolve=setting.inputs.resolve,
        stages=tuple(setting.with_models(stage)),
    )
