"""Files to a tokenised dataset: checked before, counted during, cached after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.bad_rows import UNSEEN, check_number, refuse, unsaid
from jaxpo.data.rows.columns import BY_NAME, DTYPES, FILLS, NAMES
from jaxpo.data.rows.files.splits import Part, named_held_out
from jaxpo.data.rows.formats import content_hash, forms_of, list_files
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.records import first_row
from jaxpo.data.rows.requirements import (
    Purpose,
    absent_everywhere,
    check_needs,
    ignored_reference,
    takes_pairs_apart,
)
from jaxpo.data.rows.unread import COLUMN
from jaxpo.data.tokenizer.lfm2_template import RENDERED_AS
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.admitted import SHOWN, Known, Rows
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.dataset import Column, Dataset, describe_counts
from jaxpo.data.tokens.notes import notes_of
from jaxpo.data.tokens.pictures import Sight
from jaxpo.data.tokens.rendering import Cut
from jaxpo.data.tokens.settings import check_fim, check_settings, check_train_on, cut_of, settings_of
from jaxpo.data.tokens.shapes import Shapes, merged
from jaxpo.data.tokens.shards import ALONE, Shard, Team, open_or_write
from jaxpo.data.tokens.shards import cut as cut_files
from jaxpo.data.tokens.store import FORMAT, ExampleStore, StoreWriter
from jaxpo.data.tokens.tagged import unseen_classes
from jaxpo.data.tokens.words import WORD
from jaxpo.errors import DataError

READING = 2
"""How rows are read; kept beside tokens, so that a run that began under another reading goes on and says so."""


def prepare(
    files: Iterable[str | Path],
    *,
    data: Data,
    tokenizer: Tokenizer,
    purpose: Purpose,
    needs: Needs | None = None,
    cache_dir: str | Path,
    log: Callable[[str], None] = print,
    names: Mapping[str, Sequence[str]] | None = None,
    part: Part = "train",
    team: Team = ALONE,
) -> Dataset:
    """Tokenise files once and reuse the result.

    Args:
      files: JSONL, Parquet, text files or folders.
      data: window, truncation, what to train on.
      purpose: "language", "sft" or "preference".
      needs: what the method asks of the rows; checked on the first row before anything is tokenised.
      cache_dir: one folder per distinct (contents, tokenizer, template, settings).
      log: receives one line per event.
      names: the training data's (`Dataset.names`), for held-out files: same names, same ids. Rows of other annotators,
        and of other users where the method reads them, are dropped and counted; other groups get further ids.
      part: which split of a folder is meant.
      team: the processes that tokenise together; all of them call this.

    Raises:
      DataError: any row that cannot be used; names file, row, field and remedy.
      ConfigError: settings that contradict each other or the data.
    """
    needs = needs or Needs()
    check_settings(data)
    named = list(files)
    paths = list_files(named, part=part, say=log)
    for warning in named_held_out(named) if part == "train" else ():
        log(warning)
    first = first_row(paths, unsaid if data.on_bad_row == "skip" else refuse)
    reading = replace(check_needs(first, purpose, needs), pictures=data.images is not None)
    kind = reading.kind
    check_train_on(data, kind, first)
    cut = cut_of(data, tokenizer.special_ids, whole=kind == "text" and purpose == "language")
    cut = replace(cut, classes=needs.classes, words=WORD in needs.per_token)
    if purpose == "preference" and (ignored := ignored_reference(first, needs)):
        log(ignored)
    if data.fim is not None:
        check_fim(data.fim, kind, paths)
    settings = settings_of(data, reading, needs, names)
    settings |= {"forms": forms} if (forms := forms_of(paths)) else {}
    template = RENDERED_AS if kind in ("text", "tokens") else template_of(tokenizer).identity
    about = (tokenizer.hash, template, str(FORMAT), settings)
    key = _key(content_hash(paths), *about)
    numbered = (names is None and "annotator" in needs.columns) or {"user", "group"} & set(reading.columns)
    one_for_all = "kl" in needs.roles or bool(numbered)
    groups = [range(len(paths))] if one_for_all else cut_files(paths)

    def shard_of(n: int) -> Shard:
        own = groups[n]
        named = content_hash(paths[own.start : own.stop]), own.start, sorted(first.data), template, kind
        which = f"{len(paths)} file(s)" if len(groups) == 1 else f"shard {n + 1} of {len(groups)}"

        def write(writer: StoreWriter) -> dict[str, Any]:
            log(f"tokenising {which} of type {kind!r}")
            rows = Rows(paths, own, data, needs, reading, takes_pairs_apart(first, kind))
            needed = {"user"} & set(needs.columns) - set(needs.new_names)
            known = None if names is None else Known(names, ("annotator", *needed))
            declared = dict(needs.names) if names is None else {}
            written = _write(writer, rows, tokenizer, cut, known, declared)
            for line in known.lines() if known is not None else ():
                log(line)
            return {"settings": settings, "reading": READING, **written}

        return Shard(key if len(groups) == 1 else _key(*named, *about), write)

    store = open_or_write(
        Path(cache_dir) / key[:16],
        key,
        [shard_of(n) for n in range(len(groups))],
        log,
        paths,
        merge=lambda metas: merged(metas, data.max_bad_rows),
        team=team,
    )
    dataset = _dataset(store, tokenizer, key, kind, paths)
    if data.images is not None:
        bad = len(store.meta.get("bad_rows", []))
        dataset = replace(dataset, sight=Sight(data.images, bad, data.max_bad_rows))
    if not len(dataset):
        raise DataError("no example is left.", file=paths[0], remedy=f"Counts: {describe_counts(dataset.counts)}.")
    _check_bad_rows(dataset, data.max_bad_rows, log)
    _check_whole(dataset, needs, held_out=names is not None, log=log)
    if data.curriculum is not None:
        dataset.counts.pop(COLUMN + data.curriculum.column, None)  # read where the order is made
    _say_what_was_read(dataset, log)
    return dataset


def _say_what_was_read(dataset: Dataset, log: Callable[[str], None]) -> None:
    if dataset.store.meta.get("reading") != READING:
        folder = dataset.store.directory
        log(f"{folder} was tokenised by an earlier version, which read rows differently: delete it to redo it")
    for line in notes_of(dataset.counts):
        log(line)
    counts = describe_counts(dataset.counts)
    log(f"{len(dataset)} examples of type {dataset.type!r}, {dataset.tokens} tokens ({counts})")


def _check_bad_rows(dataset: Dataset, most: int, log: Callable[[str], None]) -> None:
    """Say which rows are left out; DataError for more than `most`, where an earlier run allowed more."""
    bad = dataset.store.meta.get("bad_rows", [])
    check_number(len(bad), most)
    for row in bad[:SHOWN]:
        log(f"warning: left out: {dataset.files[row['file']]}, row {row['row']}: {row['problem']}")
    if len(bad) > SHOWN:
        log(f"warning: {len(bad) - SHOWN} more rows are left out; data_counts.json lists all")
    if unseen := dataset.counts.get(UNSEEN, 0):
        # They were looked for where they were said to lie then; neither that nor the images are part of the key.
        log(f"warning: {unseen} of them for an image; to look for those again, delete {dataset.store.directory}")


def _check_whole(dataset: Dataset, needs: Needs, *, held_out: bool, log: Callable[[str], None]) -> None:
    """What only all rows together can lack: one of the two labels, or every optional segment.

    Held-out rows are never a reason to stop: there it is a warning.
    """
    meta, file = dataset.store.meta, dataset.files[0]
    problems = []
    for label, name in ((False, "bad"), (True, "good")):
        if "label" in dataset.columns and label not in meta["classes"]:
            remedy = f"Add rows with label {str(label).lower()}: the method learns from the contrast of the two."
            problems.append(DataError(f"no row is labelled {name}.", file=file, field="label", remedy=remedy))
    if column := absent_everywhere(needs, set(meta["seen"])):
        remedy = "Add it to some rows, or choose the method without it."
        problems.append(DataError(f"no row has {column!r}.", file=file, field=column, remedy=remedy))
    if unseen := [] if held_out else unseen_classes(needs.classes, dataset.counts):
        log(f"warning: no word of the training rows is of class {', '.join(unseen)}: it will not be learnt")
    for problem in problems:
        if not held_out:
            raise problem
        log(f"warning: {problem}")


def _write(
    writer: StoreWriter,
    rows: Rows,
    tokenizer: Tokenizer,
    cut: Cut,
    known: Known | None,
    declared: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    before = declared if known is None else known.names
    ids = {column: {name: i for i, name in enumerate(before.get(column, ()))} for column in NAMES}
    shapes, counts = Shapes(), rows.counts
    builder = Builder(tokenizer, cut, counts, rows.files, rows.bad)
    for example in builder.examples(rows.chunks(known, declared)):
        for column in ids.keys() & example.columns.keys():
            own = ids[column]
            example.columns[column] = own.setdefault(example.columns[column], len(own))
        shapes.see(example, rows.files)
        writer.append(example)
    # A chunk is rendered before the one ahead of it is cut, and rows are bad at either.
    listed = sorted(rows.bad.listed, key=lambda row: (row["file"], row["row"]))
    bad = {"bad_rows": listed} if listed else {}
    names = {column: list(own) for column, own in ids.items() if own}
    annotators = names.pop("annotator", [])
    return {"counts": dict(counts), "annotators": annotators, "names": names, **shapes.as_meta(), **bad}


def _dataset(store: ExampleStore, tokenizer: Tokenizer, key: str, kind: str, paths: Sequence[Path]) -> Dataset:
    meta = store.meta
    columns = {
        name: Column(
            tuple(shape),
            DTYPES.get(name, np.float32),
            tuple(meta[name]) if name in BY_NAME else (),
            FILLS.get(name, 0),
        )
        for name, shape in meta["columns"].items()
    }
    return Dataset(
        store=store,
        tokenizer=tokenizer,
        type=kind,
        roles=meta["roles"],
        columns=columns,
        names={
            name: tuple(found) for name, found in ({"annotator": meta["annotators"]} | meta.get("names", {})).items()
        },
        counts=meta["counts"],
        files=tuple(str(p) for p in paths),
        hash=key,
        # A mark that no row has is a column too.
        per_token=dict.fromkeys(meta["settings"]["labels"], (np.dtype(np.int32), ())) | store.per_token,
        media=store.media,
    )


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
