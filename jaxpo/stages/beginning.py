"""The start of a run, or of one more part of it: its directory, and what may have changed since it was begun."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxpo import __version__
from jaxpo.config import Run
from jaxpo.config.serialise import to_jsonable
from jaxpo.data.rows.formats import file_hash
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.store import same_examples
from jaxpo.errors import RunError
from jaxpo.recipe.located import directories, identities
from jaxpo.recipe.platform import begun
from jaxpo.recipe.resume import Changes, compare
from jaxpo.stages.run_inputs import StageData
from jaxpo.train.console import Console
from jaxpo.train.files import read_json
from jaxpo.train.mirror import Mirror
from jaxpo.train.rundir import RunDir


@contextmanager
def begin(run: Run, resume: str | int, restart: bool, console: Console) -> Iterator[tuple[RunDir, Run, Changes]]:
    """The run's directory, held by its lock; the run, with what it leaves to the platform decided; and what of its
    configuration has changed, which is kept unless it depends on what is yet to be read (`Changes.open`).

    Raises:
      RunError: the directory is in use, or was begun with another configuration.
    """
    home = RunDir(Path(run.output_dir) / run.name, restart=restart, primary=jax.process_index() == 0)
    with home:
        if home.moved_to:
            console.say(f"the earlier run was moved to {home.moved_to}")
        Mirror(run.mirror, home, console.say).fetch(restart)
        home.forget_start()
        if resume == "never" and home.begun:
            raise RunError(f"{home.path} holds a run already; --restart moves it aside, --run NEW starts another")
        stored, about = home.stored_config(), home.beginning()
        given, run = run.compute.dtype, begun(run, stored, jax.default_backend())
        if given is None and run.compute.dtype != "float32":
            console.say(f"computing in {run.compute.dtype}; --compute.dtype names another type")
        if stored is None:
            about = {"jaxpo": __version__, "directory": str(Path.cwd())}
            changes = Changes()
        else:
            changes = compare(stored, run, bases=directories(run), known=about.get("places"))
        if changes.refused:
            raise home.refusal("configuration", changes.refused, _version_note(home))
        for line in changes.said:
            console.say(f"changed: {line}")
        home.keep_beginning(about | {"places": identities(run) | about.get("places", {})})
        # What is refused later must not become the run's configuration: `jaxpo run DIRECTORY` reads it.
        if not changes.open:
            home.keep_config(to_jsonable(run))
        yield home, run, changes


def check_data(home: RunDir, stage: str, data: StageData) -> None:
    """Keep what a stage's data are, or compare them with what they were when it began.

    Raises:
      RunError: they are others; names the files that have changed.
    """
    parts: Mapping[str, Dataset | None] = {"train": data.train, "eval": data.held_out}
    files = {part: _digests(dataset) for part, dataset in parts.items() if dataset is not None}
    stored = home.stored_data(stage)
    if stored is not None:
        lines = [line for part, dataset in parts.items() for line in _changed(home, stored, part, dataset, files)]
        if lines:
            raise home.refusal(f"data for stage {stage}", lines, "Restore the file and the run goes on. ")
    now = data.fingerprint() | {"files": files}
    if stored != now:
        home.keep_data(stage, now)


def _digests(dataset: Dataset) -> dict[str, str]:
    return {name: file_hash(Path(name)) for name in dataset.files}


def _changed(
    home: RunDir, stored: Mapping[str, Any], part: str, dataset: Dataset | None, files: Mapping[str, Any]
) -> Iterator[str]:
    """What is not as it was in one part of a stage's data; nothing where the tokenised rows are the same."""
    before = stored.get(part)
    if before == (None if dataset is None else dataset.hash):
        return
    if before is not None and dataset is not None and same_examples(home.path / "data" / before[:16], dataset.store):
        return
    old, new = stored.get("files", {}).get(part, {}), files.get(part, {})
    gone = [name for name, digest in old.items() if digest not in new.values()]
    come = [name for name, digest in new.items() if digest not in old.values()]
    if not old or not (gone or come):
        yield (
            f"{part}: {', '.join(new) or 'no files'}: read into other rows than when the stage began, because a file, "
            f"the tokenizer or the version changed. {_version_note(home)}".rstrip()
        )
        return
    corpus = home.path / "corpus"
    for name in gone:
        made = ", which the run's corpus makes: its own files have changed" if Path(name).is_relative_to(corpus) else ""
        yield f"{part}: {name} {'has changed' if name in new else 'is not read any more'}{made}"
    yield from (f"{part}: {name} is new" for name in come if name not in old)


def _version_note(home: RunDir) -> str:
    """A sentence where another version began the run; nothing where this one did."""
    began = home.beginning().get("jaxpo")
    if began == __version__:
        return ""
    metas = sorted(home.path.glob("stages/*/checkpoints/*/meta/meta.json"), key=lambda p: p.stat().st_mtime)
    seen = began or next((v for m in metas if (v := _version_of(m))), None)
    which = f"jaxpo {began}" if began else "an earlier version of jaxpo" + (f" ({seen})" if seen else "")
    return f"It was begun by {which}, this is {__version__}: that version goes on with it. "


def _version_of(meta: Path) -> str | None:
    """None of a checkpoint that says nothing, or is damaged: this only words a message."""
    with contextlib.suppress(RunError, AttributeError):
        found: str | None = (read_json(meta) or {}).get("environment", {}).get("jaxpo")
        return found
    return None
