"""Batches by position: `batch(rows_seen)` is a pure function, whatever came before and however many processes read."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from jaxpo.config import Data, Stage
from jaxpo.data.packing.ahead import Ahead, prefetched
from jaxpo.data.packing.annealed import mixture_of
from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.best_fit import Caps
from jaxpo.data.packing.caps import LOW, choose_caps, fill_of, fuller, shared_problems
from jaxpo.data.packing.columns import Columns
from jaxpo.data.packing.fill import Place, assemble, places, scatter
from jaxpo.data.packing.media import check_capacity
from jaxpo.data.packing.orders import Order
from jaxpo.data.packing.plan import Part, Plan
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.source import steps_of
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import ConfigError, RunError


class Loader:
    """A source of packed batches, an endless sequence of epochs; no row is dropped where one meets the next.

    Args:
      dataset: from `prepare`.
      data: row length, block size, packing.
      seed: of the order.
      rows_per_step: rows of a step over all processes.
      shuffle: a new order each epoch.
      columns: readers of what `Batch.per_token` holds beside the dataset's own columns.
      process_index, process_count: this process gets its contiguous share of every step's blocks.
      divisor: microbatches times data-parallel devices; a step's blocks must divide by it, and are chosen without it.
      order: example numbers in a fixed order of training instead of a shuffle, or an order of its own; None = the
        dataset's, if it has one.
      caps: those that a stage began with; None = chosen from the data, their settings and `rows_per_step`.

    Attributes:
      caps: static shape of every batch.
      block_rows: of them.
      fill: share of positions that hold a token, estimated on a sample.
      hash: of dataset, plan and block shape; equal hashes give equal batches.

    Raises:
      ConfigError: a step's blocks cannot be shared evenly; names what can share them.
      DataError: an example's media exceed the capacity that `data` gives a block.
    """

    def __init__(
        self,
        dataset: Dataset,
        data: Data,
        *,
        seed: int,
        rows_per_step: int,
        shuffle: bool | None = None,
        columns: Sequence[Columns] = (),
        process_index: int = 0,
        process_count: int = 1,
        divisor: int = 1,
        order: np.ndarray | Order | None = None,
        caps: Caps | None = None,
    ):
        self.dataset, self.data = dataset, data
        self.rows_per_step, self.process_index, self.process_count = rows_per_step, process_index, process_count
        self.columns = tuple(columns)
        check_capacity(dataset, data)
        self.caps, self.fill = self._shape(caps)
        self._begun = caps is not None
        sharers = math.lcm(divisor, process_count)
        problems = shared_problems(rows_per_step, self.caps.block_rows, sharers, begun=caps is not None)
        if problems:
            raise ConfigError(problems)
        directory = dataset.store.directory
        shuffle = data.shuffle if shuffle is None else shuffle
        order = dataset.order if order is None else order
        mixture = mixture_of(dataset.shares, seed, shuffle, data.mix_until) if dataset.shares else None
        self.plan = Plan(
            dataset.lengths,
            self.caps,
            seed=seed,
            shuffle=shuffle,
            order=order,
            mixture=mixture,
            cache_dir=directory,
        )
        self.block_rows = self.caps.block_rows
        self.hash = self.named(dataset.hash)

    def _shape(self, caps: Caps | None) -> tuple[Caps, float]:
        """The shape of blocks, those that are given or chosen, and how full they are."""
        lengths, data = self.dataset.lengths, self.data
        if caps is not None:
            return caps, fill_of(lengths, caps)
        return choose_caps(
            lengths,
            data.row_length,
            block_rows=data.block_rows,
            single=data.packing == "none",
            rows_per_step=self.rows_per_step,
            media_rows=data.media_rows,
            media_length=data.media_length,
        )

    def named(self, dataset_hash: str) -> str:
        """The hash of batches in this order, were the dataset known by that name."""
        return hashlib.sha256(f"{dataset_hash} {self.plan.hash}".encode()).hexdigest()

    def reading(self, *columns: Columns) -> Loader:
        """The same loader, whose batches carry these columns too."""
        found = copy.copy(self)
        found.columns = (*self.columns, *columns)
        return found

    def over(self, dataset: Dataset) -> Loader:
        """The same loader, of the same examples in another form."""
        found = copy.copy(self)
        found.dataset = dataset
        return found

    def of_all_processes(self) -> Loader:
        """The same loader, whose batches hold the rows of every process."""
        found = copy.copy(self)
        found.process_index, found.process_count = 0, 1
        return found

    def batch(self, rows_seen: int) -> Batch:
        """The step that begins after `rows_seen` rows over all processes: this process's rows, as numpy arrays."""
        first = self._block_of(rows_seen)
        blocks = [self.plan.locate(first + i) for i in self._share(self.rows_per_step // self.block_rows)]
        return self._assemble([(self.plan.part(number), place) for number, place in blocks])

    def empty(self) -> Batch:
        """A step without any example, in the shapes, dtypes and fills of every other."""
        nothing = Part.of(self.dataset.lengths, np.zeros(0, np.int64), self.caps)
        return self._assemble([(nothing, i) for i in self._share(self.rows_per_step // self.block_rows)])

    def total_steps(self, stage: Stage) -> int:
        """Optimiser steps of the stage's budget."""
        return steps_of(stage, self.rows_per_epoch)

    def open(self, rows_seen: int, steps: int) -> Ahead[Batch]:
        """The next `steps` batches after `rows_seen` rows, assembled ahead on threads."""
        return Ahead(steps, lambda i: self.batch(rows_seen + i * self.rows_per_step))

    def rows_per_epoch(self, epoch: int) -> int:
        """Rows of one epoch over all processes, padding included; varies a little with the order."""
        return self.plan.blocks_in(epoch) * self.block_rows

    def epoch_of(self, rows_seen: int) -> float:
        """Epochs done after `rows_seen` rows, with the fraction of the current one."""
        return self.plan.epoch_of(self._block_of(rows_seen))

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        """`epoch/SOURCE` and `num_tokens/SOURCE` of a mixture's sources after `rows_seen` rows.

        And `bad_images`, where rows were left out since this process began.
        """
        missed = self.dataset.sight.missed if self.dataset.sight else ()
        return self._of_sources(rows_seen) | ({"bad_images": len(missed)} if missed else {})

    def _of_sources(self, rows_seen: int) -> dict[str, float]:
        if not self.dataset.shares:
            return {}
        examples, tokens = self.plan.given(self._block_of(rows_seen))
        given = zip(self.dataset.shares, examples.tolist(), tokens.tolist(), strict=True)
        return {
            name: value
            for share, n, of_source in given
            for name, value in (
                (f"epoch/{share.name}", n / share.examples),
                (f"num_tokens/{share.name}", of_source),
            )
        }

    def packing_line(self) -> str:
        """How full the rows are, and, where much of them is padding, what would fill them better."""
        rows, length = self.block_rows, self.caps.row_length
        line = f"packing: blocks of {rows} row{'s' * (rows > 1)} of {length}, about {self.fill:.0%} of positions filled"
        if self.fill >= LOW or self._begun or self.data.packing == "none" or self.dataset.lengths.media is not None:
            return line
        better = fuller(self.dataset.lengths, self.caps, self.rows_per_step, self.fill)
        if better is None:
            return f"{line}; rows of another data.row_length may hold more"
        devices = self.rows_per_step // better[0]
        return f"{line}; data.block_rows {better[0]} would fill {better[1]:.0%}, for at most {devices} devices to share"

    def mixture_lines(self, rows: int) -> list[str]:
        """What a mixture gives in so many rows, as full as a sample's are: a line for each source; [] without one.

        Raises:
          ConfigError: a source would be passed through more often than its `max_epochs` allows.
        """
        shares, mixture = self.dataset.shares, self.plan.mixture
        if mixture is None:
            return []
        total = self.fill * rows * self.caps.row_length
        tokens = mixture.tokens(total)
        passes = [given / share.tokens for given, share in zip(tokens, shares, strict=True)]
        problems = [
            f"data.mix.{share.name}: the stage would pass through it {epochs:.2f} times, and max_epochs is "
            f"{share.max_epochs:g}. Shorten the stage, lower the source's weight, or raise the limit."
            for share, epochs in zip(shares, passes, strict=True)
            if share.max_epochs is not None and round(epochs, 2) > share.max_epochs
        ]
        if problems:
            raise ConfigError(problems)
        return [
            f"mix {share.name}: {portion:.2%} of the tokens; {share.examples:,} examples with {share.tokens:,} tokens, "
            f"{epochs:.2f} times in this stage"
            for share, portion, epochs in zip(shares, (given / total for given in tokens), passes, strict=True)
        ]

    def one_pass(self, rows_per_step: int | None = None, examples: range | None = None) -> OnePass:
        """Every example exactly once, in file order, for evaluation and for precomputing per-token values.

        Args:
          rows_per_step: rows per batch over all processes; None = as in training.
          examples: only these; None = all.
        """
        rows = rows_per_step or self.rows_per_step
        if rows % (self.block_rows * self.process_count):
            raise ConfigError(f"rows per batch ({rows}) must be a multiple of {self.block_rows * self.process_count}.")
        if examples is None:
            return OnePass(self, rows // self.block_rows, self._in_order)
        lengths, numbers = self.dataset.lengths, np.arange(examples.start, examples.stop)
        return OnePass(self, rows // self.block_rows, Plan(lengths, self.caps, seed=0, shuffle=False, order=numbers))

    @functools.cached_property
    def _in_order(self) -> Plan:
        """The order of the file; made when first asked for, since it holds as much in memory as training's plan."""
        directory = self.dataset.store.directory
        return Plan(self.dataset.lengths, self.caps, seed=0, shuffle=False, cache_dir=directory)

    def _block_of(self, rows_seen: int) -> int:
        if rows_seen % self.block_rows:
            raise RunError(
                f"rows_seen={rows_seen} is not a multiple of the block size {self.block_rows}: the run was started "
                "with another data.block_rows."
            )
        return rows_seen // self.block_rows

    def _share(self, blocks: int) -> range:
        own = blocks // self.process_count
        return range(self.process_index * own, (self.process_index + 1) * own)

    def _assemble(self, blocks: Sequence[tuple[Part, int]]) -> Batch:
        return assemble(self.dataset, self.caps, blocks, self.columns)


class OnePass(Sequence[Batch]):
    """Batches that cover every example exactly once; the last is padded with empty blocks. Random access by number."""

    def __init__(self, loader: Loader, blocks_per_step: int, plan: Plan):
        self._loader, self._blocks_per_step, self._plan = loader, blocks_per_step, plan

    @functools.cached_property
    def _blocks_in_all(self) -> int:
        return self._plan.blocks_in(0)

    def __len__(self) -> int:
        return -(-self._blocks_in_all // self._blocks_per_step)

    @overload
    def __getitem__(self, i: int) -> Batch: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Batch]: ...
    def __getitem__(self, i: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._loader._assemble(self._blocks(i))

    def __iter__(self) -> Iterator[Batch]:
        """All batches in order, assembled ahead on threads."""
        return prefetched(len(self), self.__getitem__)

    def scatter(self, i: int, values: np.ndarray, column: RaggedColumn) -> None:
        """Store per-token results of batch i, `[R, S]` in target coordinates, under their examples."""
        scatter(self._loader.dataset, self._loader.caps, self._blocks(i), np.asarray(values), column)

    def places(self, i: int) -> list[Place]:
        """Where the examples of batch i lie in this process's rows."""
        return list(places(self._loader.caps, self._blocks(i)))

    def _blocks(self, i: int) -> list[tuple[Part, int]]:
        """This process's share of a batch; blocks beyond the last are empty."""
        numbers = (i * self._blocks_per_step + j for j in self._loader._share(self._blocks_per_step))
        empty = self._plan.part(0), self._blocks_in_all
        located = (self._plan.locate(b) if b < self._blocks_in_all else None for b in numbers)
        return [empty if at is None else (self._plan.part(at[0]), at[1]) for at in located]
