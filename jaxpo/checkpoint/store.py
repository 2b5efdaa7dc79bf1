"""Asynchronous checkpoints of a training state. The only module that imports Orbax.

One directory per step. Orbax writes to a temporary name and renames when everything is on disk, so a directory with a
final name is complete; deletion renames first for the same reason. A state is stored as a flat table of named arrays
beside its own description (shapes and dtypes), so that a mismatch is reported leaf by leaf before anything is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxpo.checkpoint import leaves
from jaxpo.checkpoint.environment import environment
from jaxpo.checkpoint.fingerprint import leaf_fingerprints
from jaxpo.checkpoint.quiet import quiet, quiet_orbax
from jaxpo.config.json_text import parse
from jaxpo.errors import CheckpointError, writing

Tree = Any
FORMAT = 1
_TEMPORARY = ".orbax-checkpoint-tmp"
_DELETING = ".deleting"
_META = "meta.json"


class _Pending(Protocol):
    def result(self, timeout: float | None = None) -> Any: ...


class CheckpointStore:
    """The checkpoints of one stage, `directory/00000012` for step 12.

    Args:
      directory: made by the first `save`, which also removes what a killed process left half-written or half-deleted.
        Reading changes nothing, so that others can read the checkpoints of a run in progress.
      keep: newest checkpoints to keep; protected steps are kept besides. None = all.
    """

    def __init__(self, directory: Path | str, keep: int | None = 2):
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._pending: tuple[int, _Pending] | None = None
        self._protected: set[int] = set()
        self._registry = ocp.handlers.local_registry()
        self._registry.add(_JsonFile, checkpointable_name="meta")
        quiet_orbax()
        self._clean = False

    def path(self, step: int) -> Path:
        """Directory of the checkpoint of `step`."""
        return self.directory / f"{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(p.name) for p in found if p.name.isdigit() and p.is_dir())

    def latest(self) -> int | None:
        """Newest complete step, or None."""
        steps = self.steps()
        return steps[-1] if steps else None

    def protect(self, step: int | None) -> None:
        """Keep the checkpoint of `step` whatever comes after it (the best one); replaces the earlier choice."""
        self._protected = set() if step is None else {step}

    def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> None:
        """Start saving; returns when the state may be donated. A save that failed since is raised here first.

        Args:
          step: names the checkpoint; one that exists already is not written again.
          state: pytree of `jax.Array`, typed keys included.
          meta: JSON values: resolved configuration, data position and hash, ...
        """
        self.wait()
        if step in self.steps():
            return
        self._clean_up()
        named = leaves.named_leaves(state)
        leaves.require_shardings(named, f"checkpoint of step {step}")
        document = {
            "format": FORMAT,
            "step": step,
            "leaves": leaves.signature(named),
            "fingerprints": leaf_fingerprints(state),
            "environment": environment(),
            "meta": dict(meta),
        }
        items = {"state": leaves.to_arrays(named), "meta": json.loads(json.dumps(document))}
        try:
            with self._context():
                self._pending = (step, ocp.save_checkpointables_async(self.path(step), items))
        except Exception as error:
            raise self._save_error(step, error) from error

    def wait(self) -> None:
        """Wait for the save under way; CheckpointError if it failed. Then remove what `keep` no longer covers."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise self._save_error(step, error) from error
        if jax.process_index() == 0:
            self._prune()

    def close(self) -> None:
        """Wait for the save under way."""
        self.wait()

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """What was given to `save` as `meta`; reads no array."""
        return self._document(self._existing(step))["meta"]

    def environment(self, step: int | None = None) -> dict[str, Any]:
        """Versions and device topology that wrote the checkpoint."""
        return self._document(self._existing(step))["environment"]

    def restore(self, step: int | None, abstract: Tree) -> tuple[Tree, dict[str, Any]]:
        """Read a state onto the shardings of `abstract`, whatever mesh wrote it: `(state, meta)`.

        Args:
          step: None = the newest.
          abstract: pytree of `jax.ShapeDtypeStruct`, each with a sharding.

        Raises:
          CheckpointError: absent, incomplete or damaged files; other leaves, shapes or dtypes than `abstract` has.
        """
        return self._read(step, abstract, "")

    def restore_part(self, step: int | None, part: str, abstract: Tree) -> tuple[Tree, dict[str, Any]]:
        """`restore` for one subtree: `part` "params/model" and its abstract tree; nothing else is read."""
        return self._read(step, abstract, f"{part}/")

    def _read(self, step: int | None, abstract: Tree, prefix: str) -> tuple[Tree, dict[str, Any]]:
        self.wait()
        step = self._existing(step)
        document = self._document(step)
        named = {prefix + name: leaf for name, leaf in leaves.named_leaves(abstract).items()}
        leaves.require_shardings(named, "restore")
        stored = {name: entry for name, entry in document["leaves"].items() if name.startswith(prefix)}
        leaves.check_signature(stored, leaves.signature(named), f"checkpoint {self.path(step)}")
        try:
            context = self._context()
            context.pytree.loading.partial_load = bool(prefix)
            with context, quiet():
                target = {"state": leaves.to_abstract_arrays(named)}
                arrays = ocp.load_checkpointables(self.path(step), target)["state"]
        except Exception as error:
            raise self._damaged(step, _unreadable_json(self.path(step)) + _short(error)) from error
        found = leaf_fingerprints(arrays)
        wrong = [name for name in stored if found[name] != document["fingerprints"][name]]
        if wrong:
            raise self._damaged(step, f"the stored values of {', '.join(wrong[:5])} are not those that were saved")
        state = leaves.from_arrays({name.removeprefix(prefix): x for name, x in arrays.items()}, abstract)
        return state, document["meta"]

    def _context(self) -> ocp.Context:
        context = ocp.Context()
        context.checkpointables.registry = self._registry
        return context

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"no checkpoint in {self.directory}; start the run that writes them first")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self.directory}; it has {_listed(steps)}")
        return step

    def _document(self, step: int) -> dict[str, Any]:
        file = self.path(step) / "meta" / _META
        try:
            document = parse(file.read_text())
            if document["format"] != FORMAT:
                raise CheckpointError(f"{file}: format {document['format']}, this version of jaxpo reads {FORMAT}")
            return {name: document[name] for name in ("step", "leaves", "fingerprints", "environment", "meta")}
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{file} is missing: {self.path(step)} is not a jaxpo checkpoint or is incomplete. {self._remedy(step)}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({_short(error)}). {self._remedy(step)}") from error

    def _damaged(self, step: int, what: str) -> CheckpointError:
        return CheckpointError(f"checkpoint {self.path(step)} is damaged: {what}. {self._remedy(step)}")

    def _remedy(self, step: int) -> str:
        older = [s for s in self.steps() if s < step]
        back = f"continue from step {older[-1]}" if older else "start this stage again"
        return f"Restore the file from a copy, or delete {self.path(step)} to {back}."

    def _save_error(self, step: int, error: Exception) -> CheckpointError:
        steps = [s for s in self.steps() if s != step]
        kept = f"The checkpoint of step {steps[-1]} is intact" if steps else "There is no earlier checkpoint"
        return CheckpointError(
            f"saving step {step} to {self.path(step)} failed: {_short(error)}. {kept}. "
            "Free space or choose another directory, then run the same command again."
        )

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run goes on from an earlier one."""
        self.wait()
        if jax.process_index() == 0:
            for later in [s for s in self.steps() if s > step]:
                self._remove(later)
        if jax.process_count() > 1:
            # Until process 0 is done the others would still see a later checkpoint.
            multihost_utils.sync_global_devices("discard_after")

    def _clean_up(self) -> None:
        """Remove leftovers once, and see that a folder can be made: Orbax's threads would wait minutes for one."""
        if jax.process_index() != 0:
            return
        if not self._clean:
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in [*self.directory.glob(f"*{_TEMPORARY}*"), *self.directory.glob(f"*{_DELETING}")]:
                shutil.rmtree(leftover)
            self._clean = True
        probe = self.directory / f".{os.getpid()}{_DELETING}"
        with writing(self.directory, probe):
            probe.mkdir()
            probe.rmdir()

    def _prune(self) -> None:
        if self.keep is None:
            return
        for step in self.steps()[: -self.keep]:
            if step not in self._protected:
                self._remove(step)

    def _remove(self, step: int) -> None:
        doomed = self.path(step).with_name(self.path(step).name + _DELETING)
        self.path(step).rename(doomed)
        shutil.rmtree(doomed)


class _JsonFile(ocp.handlers.JsonHandler):
    """Orbax's JSON item under a file name of ours, which `CheckpointStore.meta` reads without Orbax."""

    def __init__(self) -> None:
        super().__init__(filename=_META)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[-10:]))


def _short(error: BaseException) -> str:
    """The innermost exception that says something, without the driver specification that TensorStore appends."""
    text = ""
    link: BaseException | None = error
    while link is not None:
        words = " ".join(str(link).split("[tensorstore_spec")[0].split())
        text = words if len(words) > 8 else text
        link = link.__cause__ or link.__context__
    text = (text or type(error).__name__).rstrip(". ")
    return text if len(text) <= 400 else f"{text[:400]} ..."


def _unreadable_json(directory: Path) -> str:
    """The first of Orbax's JSON files in a checkpoint that cannot be parsed: its own message does not name it."""
    for file in sorted([*directory.glob("state/_METADATA"), *directory.glob("state/array_metadatas/*")]):
        try:
            json.loads(file.read_text())
        except (OSError, ValueError):
            return f"{file} cannot be read: "
    return ""
