"""The checks of a distillation stage: its teacher, its records, and what the loss asks of them. Imports no jax."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Distill, Run
from jaxpo.config.fields import flag
from jaxpo.errors import did_you_mean
from jaxpo.recipe.lineage import declared_model, with_models

META = "meta.json"


def teacher_problems(run: Run, index: int, stage: Distill) -> Iterator[str]:
    """A teacher or records; ids that the vocabulary has; held-out files that are taught too."""
    yield from _source_problems(stage)
    if stage.teacher is not None:
        yield from _named_teacher(run, index, stage)
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
    name, teacher = stage.name, flag((stage.name, "teacher"))
    if stage.teacher is None and stage.records is None:
        yield f"{name}.teacher: there is none; give {teacher} STAGE or FOLDER, or {flag((name, 'records'))} FOLDER."
    if not stage.precompute_teacher:
        for field in ("records", "eval_records"):
            if getattr(stage, field) is not None:
                yield f"{name}.{field}: is not read with precompute_teacher False; leave one of them out."
        if stage.teacher is None:
            yield f"{name}.precompute_teacher: False runs the teacher in every step; give {teacher}."
    elif stage.data.eval and stage.teacher is None and stage.eval_records is None:
        yield (
            f"{name}.eval_records: the held-out files need the teacher too; give {flag((name, 'eval_records'))} FOLDER "
            f"(`jaxpo data teach` on them), or {teacher}, or no held-out files."
        )


def _named_teacher(run: Run, index: int, stage: Distill) -> Iterator[str]:
    """It is an earlier stage with the student's vocabulary, or a folder."""
    earlier = {s.name: s for s in with_models(run, index)}
    teacher = stage.teacher
    if teacher in earlier:
        ours, theirs = (getattr(declared_model(run, s), "vocab_size", None) for s in (stage, earlier[str(teacher)]))
        if ours is not None and theirs is not None and ours != theirs:
            yield (
                f"{stage.name}.teacher: the model of stage {teacher!r} has another vocabulary: its logits are over "
                f"{theirs} tokens and the student's over {ours}. Distributions over different tokens cannot be "
                "compared."
            )
        return
    if Path(str(teacher)).is_dir():
        return
    if teacher in [s.name for s in run.stages[index:]]:
        yield f"{stage.name}.teacher: the stage {teacher!r} does not come before {stage.name!r}."
        return
    known = ", ".join(earlier) or "there is none"
    yield (
        f"{stage.name}.teacher: {teacher!r} is neither an earlier stage ({known}) nor a folder."
        f"{did_you_mean(str(teacher), earlier)}"
    )


def _records_problems(where: str, folder: Path, k: Any, vocab: Any) -> Iterator[str]:
    """What the folder says of itself; whether it is this data's is checked when the data are there."""
    try:
        meta = json.loads((folder / META).read_text())
    except (OSError, json.JSONDecodeError):
        yield f"{where}: {folder} holds no teacher records; write them with `jaxpo data teach`."
        return
    if isinstance(k, int) and meta.get("k") != k:
        yield f"{where}: {folder} holds {meta.get('k')} ids per token, and the loss reads top_k {k}; make them equal."
    if vocab is not None and meta.get("vocab_size") != vocab:
        yield (
            f"{where}: {folder} comes from a teacher with another vocabulary ({meta.get('vocab_size')} tokens, the "
            f"student has {vocab}); distributions over different tokens cannot be compared."
        )
