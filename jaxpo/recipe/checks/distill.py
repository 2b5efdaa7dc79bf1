"""The checks of a distillation stage: its teacher, its records, and what the loss asks of them. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Distill, Run
from jaxpo.config.fields import flag
from jaxpo.config.json_text import parse
from jaxpo.data.rows.needs import TEACHER
from jaxpo.recipe.beside import companion
from jaxpo.recipe.lineage import declared_model

META = "meta.json"


def teacher_problems(run: Run, index: int, stage: Distill) -> Iterator[str]:
    """A teacher or records; ids that the vocabulary has; held-out files that are taught too."""
    yield from _source_problems(stage)
    vocab = getattr(declared_model(run, stage), "vocab_size", None)
    k = getattr(stage.loss, "top_k", None)
    if isinstance(k, int) and vocab is not None and k > vocab:
        yield (
            f"{stage.name}.loss.top_k: {k} exceeds the model's vocabulary of {vocab}; "
            f"{flag((stage.name, 'loss', 'top_k'))} {min(32, vocab)}."
        )
    for field in ("records", "eval_records"):
        folder = getattr(stage, field)
        if folder is not None:
            yield from _records_problems(f"{stage.name}.{field}", Path(folder), k, vocab)


def _source_problems(stage: Distill) -> Iterator[str]:
    """Where the teacher's part comes from."""
    name, field = stage.name, flag((stage.name, "teacher"))
    teacher = companion(stage, TEACHER, "top_k")
    if teacher.source is None and stage.records is None:
        yield f"{name}.teacher: there is none; give {field} STAGE or FOLDER, or {flag((name, 'records'))} FOLDER."
    if not teacher.recorded:
        for given in ("records", "eval_records"):
            if getattr(stage, given) is not None:
                yield f"{name}.{given}: is not read with precompute_teacher False; leave one of them out."
        if teacher.source is None:
            yield f"{name}.precompute_teacher: False runs the teacher in every step; give {field}."
    elif stage.data.eval and teacher.source is None and stage.eval_records is None:
        yield (
            f"{name}.eval_records: the held-out files need the teacher too; give {flag((name, 'eval_records'))} FOLDER "
            f"(`jaxpo data teach` on them), or {field}, or no held-out files."
        )


def _records_problems(where: str, folder: Path, k: Any, vocab: Any) -> Iterator[str]:
    """What the folder says of itself; whether it is this data's is checked when the data are there."""
    try:
        meta = parse((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        meta = None
    if not isinstance(meta, dict):
        yield f"{where}: {folder} holds no teacher records; write them with `jaxpo data teach`."
        return
    if isinstance(k, int) and meta.get("k") != k:
        yield f"{where}: {folder} holds {meta.get('k')} ids per token, and the loss reads top_k {k}; make them equal."
    if vocab is not None and meta.get("vocab_size") != vocab:
        yield (
            f"{where}: {folder} comes from a teacher with another vocabulary ({meta.get('vocab_size')} tokens, the "
            f"student has {vocab}); distributions over different tokens cannot be compared."
        )
