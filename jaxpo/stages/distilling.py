"""The teacher of a distillation stage: beside the student in every step, or recorded once for the stage's data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.config import Distill, Stage
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.teacher_reader import TeacherRecords
from jaxpo.data.packing.teacher_records import LOG_ODDS
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError
from jaxpo.objectives.families.distilled import records_of
from jaxpo.sharding import put_batch
from jaxpo.stages.reference import local_rows
from jaxpo.stages.setting import Setting
from jaxpo.stages.teach import (
    Say,
    Teacher,
    batch_rows,
    check_alone,
    check_k,
    check_teacher,
    load_teacher,
    run_teacher,
    teach,
)
from jaxpo.train.signals import stopper


def teacher_folder(setting: Setting, stage: Distill) -> Path:
    """Where the teacher lies: an earlier stage of the run, or elsewhere."""
    assert stage.teacher is not None
    return setting.model_folder(stage.teacher)


def teacher_of(setting: Setting, stage: Distill) -> Teacher:
    """The teacher, placed on the run's mesh.

    Raises:
      ConfigError: its vocabulary is not the student's.
    """
    return load_teacher(
        teacher_folder(setting, stage),
        setting.prepared.tokenizer,
        setting.mesh,
        setting.rules,
        vocab_size=setting.config(stage).vocab_size,
        scorer=setting.scorer_of(stage),
    )


def wanted_teacher(setting: Setting, stage: Stage) -> Teacher | None:
    """The teacher of a stage that has to run one: in every step, or to record what nobody has recorded yet."""
    if getattr(stage, "teacher", None) is None:
        return None
    assert isinstance(stage, Distill)
    return teacher_of(setting, stage) if to_record(stage) or not taught(stage) else None


def taught(stage: Stage) -> bool:
    """Whether the batches of a stage carry a teacher's records."""
    return getattr(stage, "precompute_teacher", False)


def to_record(stage: Distill) -> bool:
    """Whether the stage computes records itself: those of some of its files are not given."""
    given = stage.records is not None and (stage.eval_records is not None or not stage.data.eval)
    return stage.precompute_teacher and not given


def check_teaching(setting: Setting, stage: Stage, say: Say = lambda _: None) -> None:
    """What can be known of a stage's teacher or its records before the first stage is trained.

    Args:
      say: see `check_teacher`.

    Raises:
      ConfigError, DataError: another vocabulary, or records of something else.
      RunError: several processes cannot compute records.
    """
    if not isinstance(stage, Distill):
        return
    if to_record(stage):
        check_alone()
    config = setting.config(stage)
    if stage.teacher is not None and stage.teacher not in [s.name for s in setting.run.stages]:
        check_teacher(stage.teacher, setting.prepared.tokenizer, config.vocab_size, say)
    if stage.name not in setting.prepared.stages:
        return
    data = setting.prepared.of(stage)
    for folder, dataset in ((stage.records, data.train), (stage.eval_records, data.held_out)):
        if folder is not None and dataset is not None:
            _open(setting, stage, Path(folder), dataset)


def taught_loader(
    setting: Setting, stage: Distill, loader: Loader, kind: Literal["train", "eval"], teacher: Teacher | None
) -> Loader:
    """The loader whose batches carry the teacher's records: those of a folder, or computed now and kept.

    Args:
      kind: the files that the loader reads.
    """
    given = stage.records if kind == "train" else stage.eval_records
    if given is not None:
        return loader.reading(_open(setting, stage, Path(given), loader.dataset))
    assert teacher is not None
    k = stage.loss.top_k
    name = teacher.records(loader.dataset, k).key[:16]
    folder = setting.home.stage(stage.name) / "teacher" / name
    most = stage.rows_per_step // stage.gradient_accumulation_steps
    report = teach(
        teacher,
        loader,
        folder,
        k,
        setting.mesh,
        setting.console.say,
        most_rows=most,
        check=stopper(setting.stop, stage.name),
        done=lambda part: setting.results.taught(stage.name, kind, name, part),
    )
    if report["tokens"]:
        setting.console.say(
            f"teacher records: {report['tokens']:,} tokens, {report['bytes_per_token']} bytes each, "
            f"{report['tokens_per_second']:,.0f} tokens/s"
        )
    found = loader.reading(_open(setting, stage, folder, loader.dataset))
    worst = _check(found, folder, teacher, k, setting.mesh, batch_rows(loader, setting.mesh, most=most))
    setting.console.say(f"teacher records: max |stored - recomputed| top-{k} mass = {worst:.2e}")
    return found


def _open(setting: Setting, stage: Distill, folder: Path, dataset: Dataset) -> TeacherRecords:
    vocab = setting.config(stage).vocab_size
    check_k(stage.loss.top_k, vocab, f"{stage.name}.loss.top_k")
    return TeacherRecords(folder, dataset, k=stage.loss.top_k, vocab_size=vocab)


def _check(loader: Loader, folder: Path, teacher: Teacher, k: int, mesh: jax.sharding.Mesh, rows: int) -> float:
    """Largest difference of a batch's stored masses from recomputed ones; DataError when it is no rounding."""
    batch = loader.one_pass(rows)[0]
    again = local_rows(run_teacher(teacher.scorer, k, teacher.params, put_batch(batch, mesh)).log_odds)
    stored = np.asarray(records_of(batch).log_odds)
    mask = np.pad(batch.masks["completion"][:, 1:], ((0, 0), (0, 1)))
    mass = [np.asarray(jax.nn.sigmoid(jnp.asarray(x)))[mask] for x in (again, stored)]
    worst = float(np.max(np.abs(mass[0] - mass[1]), initial=0.0))
    if not worst <= 1e-2:
        raise DataError(
            f"stored teacher records differ from recomputed ones by {worst:.3g} in the top-{k} mass.",
            file=folder,
            field=LOG_ODDS,
            remedy="Delete the folder to compute them again.",
        )
    return worst
