"""The source of a stage of pairs and answers: the pairs of its files, and answers to their prompts, in every step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxpo.data.packing.joined import Joined, PackedSource
from jaxpo.data.packing.loader import Loader
from jaxpo.errors import DataError
from jaxpo.online.source import RolloutSource
from jaxpo.sharding import BATCH_AXES, axis_size, current_mesh, row_share


def joined(materials: Any, answers: RolloutSource) -> Joined:
    """Both sources as one.

    Args:
      materials: `jaxpo.recipe.kind.Materials` of a `jaxpo.config.Hybrid`.
      answers: to the prompts of the pairs, in the rows that pairs leave.

    Raises:
      DataError: a prompt that leaves no room for an answer; names file and row.
      ConfigError: rows that devices and microbatches cannot share.
    """
    stage, rows = materials.stage, materials.rows
    _check_lengths(answers, stage.longest_prompt)
    mesh = current_mesh()
    index, count = (0, 1) if mesh is None else row_share(mesh)
    sharers = stage.gradient_accumulation_steps * (1 if mesh is None else axis_size(mesh, BATCH_AXES))
    pairs = Loader(
        rows.dataset,
        dataclasses.replace(stage.data, block_rows=1),  # as answers have them
        seed=materials.seed,
        rows_per_step=stage.pair_rows,
        columns=rows.columns,
        process_index=index,
        process_count=count,
        divisor=sharers,
    )
    parts: list[tuple[PackedSource, int]] = [(pairs, stage.pair_rows), (answers, stage.rows_per_step - stage.pair_rows)]
    return Joined(parts, divisor=sharers, process_count=count)


def _check_lengths(answers: RolloutSource, longest: int) -> None:
    prompts = answers.maker.prompts
    for number in range(len(prompts)):
        prompt = prompts.at(number)
        if len(prompt.ids) > longest:
            raise DataError(
                f"the prompt has {len(prompt.ids)} tokens, and beside an answer it may have {longest}.",
                file=Path(prompt.file),
                row=prompt.row,
                field="prompt",
                remedy="Raise data.max_length, lower max_completion_length, or remove the row.",
            )
