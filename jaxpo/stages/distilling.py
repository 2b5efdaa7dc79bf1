"""A network's likeliest tokens as a stage gets them: out of a folder that the user made, or recorded once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.teacher_reader import TeacherRecords
from jaxpo.data.packing.teacher_records import names_of, read_meta
from jaxpo.data.rows.needs import TEACHER
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError
from jaxpo.objectives.families.distilled import records_of
from jaxpo.recipe.kinds import method_of
from jaxpo.sharding import put_batch
from jaxpo.stages.frozen import FrozenNetwork
from jaxpo.stages.recording import local_rows
from jaxpo.stages.setting import Setting
from jaxpo.stages.teach import batch_rows, check_k, records_meta, run_teacher, teach
from jaxpo.train.signals import stopper

Part = Literal["train", "eval"]
GIVEN = {"train": "records", "eval": "eval_records"}
"""Files of a stage -> the field that may name a folder of their records."""


def given_records(stage: Any, network: str, part: Part) -> str | None:
    """The folder of records that the user gives for some of a stage's files."""
    folder: str | None = getattr(stage, GIVEN[part], None) if network == TEACHER else None
    return folder


def given_fingerprint(stage: Any, network: str) -> str:
    """Of the network whose records of the training files the user gives."""
    return read_meta(Path(str(given_records(stage, network, "train")))).teacher


def to_record(stage: Any, network: str) -> bool:
    """Whether the stage computes records itself: those of some of its files are not given."""
    parts: tuple[Part, ...] = ("train", "eval") if stage.data.eval else ("train",)
    return any(given_records(stage, network, part) is None for part in parts)


def open_records(setting: Setting, stage: Any, network: str, folder: Path, dataset: Dataset) -> TeacherRecords:
    """Complete records of a dataset, with as many ids per token as the stage's method reads.

    Raises:
      ConfigError, DataError: they are of something else.
    """
    vocab, k = setting.config(stage).vocab_size, method_of(stage).top_k  # type: ignore[attr-defined]
    check_k(k, vocab, f"{stage.name}.loss.top_k")
    return TeacherRecords(folder, dataset, network=network, k=k, vocab_size=vocab)


def record_top_k(
    setting: Setting, stage: Any, name: str, network: FrozenNetwork | None, loader: Loader, part: Part
) -> TeacherRecords:
    """A network's records of a loader's data: those of a folder, or computed now and kept.

    Args:
      network: None where all records are given.
      part: the files that the loader reads.
    """
    given = given_records(stage, name, part)
    if given is not None:
        return open_records(setting, stage, name, Path(given), loader.dataset)
    assert network is not None
    k, say = method_of(stage).top_k, setting.console.say  # type: ignore[attr-defined]
    made = records_meta(network, loader.dataset, k).key[:16]
    folder = setting.home.stage(stage.name) / name / made
    most = stage.rows_per_step // stage.gradient_accumulation_steps
    report = teach(
        network,
        loader,
        folder,
        k,
        setting.mesh,
        say,
        most_rows=most,
        check=stopper(setting.stop, stage.name),
        done=lambda figures: setting.results.taught(stage.name, part, made, figures),
    )
    if report["tokens"]:
        say(
            f"{name} records: {report['tokens']:,} tokens, {report['bytes_per_token']} bytes each, "
            f"{report['tokens_per_second']:,.0f} tokens/s"
        )
    records = open_records(setting, stage, name, folder, loader.dataset)
    worst = _check(loader, records, network, setting.mesh, batch_rows(loader, setting.mesh, most=most))
    say(f"{name} records: max |stored - recomputed| top-{k} mass = {worst:.2e}")
    return records


def _check(
    loader: Loader, records: TeacherRecords, network: FrozenNetwork, mesh: jax.sharding.Mesh, rows: int
) -> float:
    """Largest difference of a batch's stored masses from recomputed ones; DataError when it is no rounding."""
    k, batch = records.meta.k, loader.reading(records).one_pass(rows)[0]
    again = local_rows(run_teacher(network.scorer, k, network.params, put_batch(batch, mesh)).log_odds)
    stored = np.asarray(records_of(batch, records.network).log_odds)
    mask = np.pad(batch.masks["completion"][:, 1:], ((0, 0), (0, 1)))
    mass = [np.asarray(jax.nn.sigmoid(jnp.asarray(x)))[mask] for x in (again, stored)]
    worst = float(np.max(np.abs(mass[0] - mass[1]), initial=0.0))
    if not worst <= 1e-2:
        raise DataError(
            f"stored {records.network} records differ from recomputed ones by {worst:.3g} in the top-{k} mass.",
            file=records.folder,
            field=names_of(records.network)[2],
            remedy="Delete the folder to compute them again.",
        )
    return worst
