"""Asynchronous checkpoints of a training state. The only module that imports Orbax, with `orbax_alone`.

One directory per step. It gets its name when everything is on disk (`commit`), so a directory with a final name is
complete; deletion renames first for the same reason. A state is stored as a flat table of named arrays beside its own
description (shapes and dtypes), so that a mismatch is reported leaf by leaf before anything is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxpo.checkpoint import leaves
from jaxpo.checkpoint.agreed import on_all
from jaxpo.checkpoint.commit import UNSYNCED, Commit
from jaxpo.checkpoint.environment import environment
from jaxpo.checkpoint.fingerprint import leaf_fingerprints
from jaxpo.checkpoint.integrity import FORMAT, META, is_machine, read_document, short, unreadable, unreadable_json
from jaxpo.checkpoint.orbax_alone import alone, counted_apart
from jaxpo.checkpoint.quiet import quiet, quiet_orbax
from jaxpo.checkpoint.step_folders import StepFolders
from jaxpo.data.durable import seal
from jaxpo.errors import CheckpointError, DamagedError
from jaxpo.sharding.turns import words_of_all, works_alone

Tree = Any
CHECKPOINTS = "checkpoints"
"""Folder of a stage's checkpoints, in that of the stage."""


class CheckpointStore(StepFolders):
    """The checkpoints of one stage, `directory/00000012` for step 12.

    Args:
      directory: made by the first `save`, which also removes what a killed process left half-written or half-deleted.
        Reading changes nothing, so that others can read the checkpoints of a run in progress.
      keep: newest checkpoints to keep; protected steps are kept besides. None = all.
      committed: called on process 0 for every checkpoint that is complete, on the thread that saved it.
    """

    def __init__(self, directory: Path | str, keep: int | None = 2, committed: Callable[[], None] = lambda: None):
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        super().__init__(directory)
        self.keep = keep
        self._committed = committed
        self._pending: tuple[int, Commit] | None = None
        self._documents: dict[int, dict[str, Any]] = {}
        self._protected: set[int] = set()
        self._registry = ocp.handlers.local_registry()
        self._registry.add(_JsonFile, checkpointable_name="meta")
        quiet_orbax()

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
        self.clean_up()
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
        items = {"state": leaves.to_arrays(named), "meta": seal(json.loads(json.dumps(document)))}
        path = self.path(step)
        try:
            with self._context(works_alone()):
                response = ocp.save_checkpointables_async(path.with_name(path.name + UNSYNCED), items)
            self._pending = (step, Commit(response, path, self._committed))
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

    def restore_leaf(self, step: int | None, name: str, abstract: jax.ShapeDtypeStruct) -> jax.Array:
        """`restore` for one array, `name` "params/model/x/weight"; nothing else is read."""
        parent, _, last = name.rpartition("/")
        found: jax.Array = self._read(step, {last: abstract}, f"{parent}/", alone=True)[0][last]
        return found

    def _read(
        self, step: int | None, abstract: Tree, prefix: str, *, alone: bool = False
    ) -> tuple[Tree, dict[str, Any]]:
        self.wait()
        step = self._existing(step)
        document = on_all(lambda: self._document(step))
        named = {prefix + name: leaf for name, leaf in leaves.named_leaves(abstract).items()}
        leaves.require_shardings(named, "restore")
        kept = document["leaves"].items()
        # Beside a leaf alone others may lie.
        stored = {name: entry for name, entry in kept if (name in named if alone else name.startswith(prefix))}
        leaves.check_signature(stored, leaves.signature(named), f"checkpoint {self.path(step)}")
        arrays = on_all(lambda: self._arrays(step, named, bool(prefix)))
        found = leaf_fingerprints(arrays)
        wrong = [name for name in stored if found[name] != document["fingerprints"].get(name)]
        if wrong:
            raise self.damaged(step, f"the stored values of {', '.join(wrong[:5])} are not those that were saved")
        state = leaves.from_arrays({name.removeprefix(prefix): x for name, x in arrays.items()}, abstract)
        return state, document["meta"]

    def _arrays(self, step: int, named: Mapping[str, Any], some: bool) -> dict[str, Any]:
        """This process's shards of a checkpoint's arrays, of `some` or all of them."""
        try:
            # One that fails would not come to a barrier at which Orbax lets the others wait.
            context = self._context(apart=True)
            context.pytree.loading.partial_load = some
            with context, counted_apart(), quiet():
                found: dict[str, Any] = ocp.load_checkpointables(
                    self.path(step), {"state": leaves.to_abstract_arrays(named)}
                )["state"]
                return found
        except Exception as error:
            raise self._unread(step, error) from error

    def _context(self, apart: bool) -> ocp.Context:
        several = jax.process_count() > 1
        context = ocp.Context(multiprocessing_options=alone() if several and apart else None)
        context.checkpointables.registry = self._registry
        # Made beside the training, a folder that cannot be made would leave Orbax's threads waiting for minutes.
        context.async_options.create_directories_asynchronously = False
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

    def signature(self, step: int | None = None) -> leaves.Signature:
        """Names, shapes and dtypes of a checkpoint's arrays; reads none."""
        found: leaves.Signature = self._document(self._existing(step))["leaves"]
        return found

    def _document(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself; its files are checked once."""
        try:
            if step not in self._documents:
                self._documents[step] = read_document(self.path(step), step)
            return self._documents[step]
        except DamagedError as error:
            raise self.damaged(step, error.what) from error

    def _unread(self, step: int, error: Exception) -> CheckpointError:
        """What it means that the arrays could not be read."""
        if is_machine(error):
            return unreadable(self.path(step), error)
        return self.damaged(step, unreadable_json(self.path(step)) + short(error))

    def damaged(self, step: int, what: str) -> DamagedError:
        """The error for a checkpoint that is not what was saved."""
        older = [s for s in self.steps() if s < step]
        back = f"goes on from step {older[-1]}" if older else "makes it again"
        return DamagedError(
            f"checkpoint {self.path(step)} is damaged: {what}",
            f"Restore the file from a copy, or start its run again, which keeps it aside and {back} "
            "(of a finished run remove finished.json first).",
        )

    def set_aside(self, step: int) -> Path:
        self._documents.pop(step, None)
        return super().set_aside(step)

    def _save_error(self, step: int, error: Exception) -> CheckpointError:
        self._clean = False
        steps = [s for s in self.steps() if s != step]
        kept = f"The checkpoint of step {steps[-1]} is intact" if steps else "There is no earlier checkpoint"
        return CheckpointError(
            f"saving step {step} to {self.path(step)} failed: {short(error)}. {kept}. "
            "Free space or choose another directory, then run the same command again."
        )

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run goes on from an earlier one."""
        self.wait()
        self.limit = None
        if jax.process_index() == 0:
            for later in [s for s in self.steps() if s > step]:
                self.remove(later)
        # Until process 0 is done the others would still see a later checkpoint.
        together("discard_after")

    def _prune(self) -> None:
        if self.keep is None:
            return
        for step in self.steps()[: -self.keep]:
            if step not in self._protected:
                self.remove(step)

    def remove(self, step: int) -> None:
        self._documents.pop(step, None)
        super().remove(step)


class _JsonFile(ocp.handlers.JsonHandler):
    """Orbax's JSON item under a file name of ours, which `CheckpointStore.meta` reads without Orbax."""

    def __init__(self) -> None:
        super().__init__(filename=META.name)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[-10:]))


def together(what: str) -> None:
    """All processes have come here, however far apart: a collective of the devices would give up after a while."""
    words_of_all(what)
