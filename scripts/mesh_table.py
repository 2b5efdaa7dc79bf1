#!/usr/bin/env python
"""The table of `docs/meshes.md`: what the released shapes take of a device, and the smallest mesh of each chip.

    python scripts/mesh_table.py

Next-token training with AdamW in bfloat16, one row of 4,096 tokens per device and step, every layer recomputed. The
state is exact; what comes beside it is estimated (`jaxpo.train.memory`). Nothing is compiled or allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jax.sharding import AbstractMesh

from jaxpo.config import Compute, Data, Pretrain, Run
from jaxpo.config.axes import AXES, BATCH_AXES
from jaxpo.models.family import family, preset
from jaxpo.stages.dry_run import held, on_accelerator, stage_step
from jaxpo.train.chips import named_chip
from jaxpo.train.memory import USABLE

PRESETS = ("lfm2_350m", "lfm2_700m", "lfm2_1_2b", "lfm2_2_6b", "lfm2_8b_a1b", "lfm2_24b_a2b")
CHIPS = ("h100", "h200", "v5p", "v6e", "v5e")
LENGTH, MOST, EXPERTS = 4096, 512, 8
GIB = 2**30


def candidates(config: Any) -> Iterator[dict[str, int]]:
    """Powers of two; of a mixture up to eight devices share the experts, the others the rest."""
    mixture = family(config).experts(config) is not None
    for devices in (2**i for i in range(int(math.log2(MOST)) + 1)):
        expert = min(devices, EXPERTS) if mixture else 1
        yield {"expert": expert, "fsdp": devices // expert}


def row_of(name: str) -> str:
    """One line of the table."""
    config, fitting, first, state = preset(name), {}, 0.0, 0
    for sizes in candidates(config):
        mesh: Any = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
        rows = math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)
        stage = Pretrain(data=Data(max_length=LENGTH, row_length=LENGTH), rows_per_step=rows, max_steps=10)
        run = Run(model=config, stages=(stage,), compute=Compute(remat="full"))
        step, load = stage_step(run, stage, config, mesh, None)
        found = on_accelerator(run, config, load, "full", mesh)
        assert found is not None
        state = state or held(replace(step, batch=())).total
        for chip in CHIPS:
            if found.total <= USABLE * named_chip(chip)[1].memory:
                fitting.setdefault(chip, f"{shown(sizes)} ({found.total / GIB:.1f})")
        first = found.temporary
        if len(fitting) == len(CHIPS):
            break
    cells = [f"`{name}`", f"{state / GIB:.1f}", f"{first / GIB:.1f}", *(fitting.get(chip, "-") for chip in CHIPS)]
    return f"| {' | '.join(cells)} |"


def shown(sizes: dict[str, int]) -> str:
    """`expert 8 x fsdp 4`."""
    return " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1) or "1 device"


def main() -> None:
    print(f"| shape | state | temporary | {' | '.join(CHIPS)} |")
    print(f"|---|---|---|{'---|' * len(CHIPS)}")
    for name in PRESETS:
        print(row_of(name), flush=True)


if __name__ == "__main__":
    main()
