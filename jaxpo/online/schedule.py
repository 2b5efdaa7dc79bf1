"""Which answers a step trains on, and by which weights they were written: arithmetic on numbers of steps alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps and generations, both counted from 0.

    A generation serves `steps_per_generation * num_iterations` consecutive steps, its cycle; each of these trains on
    one slice of its groups, slice after slice, as often as there are iterations. Generation g is written by the weights
    before the first step of generation g - staleness's cycle, the first ones by the stage's first weights.
    """

    steps_per_generation: int = 1
    num_iterations: int = 1
    staleness: int = 0

    @property
    def cycle(self) -> int:
        """Steps that a generation serves."""
        return self.steps_per_generation * self.num_iterations

    def generation(self, step: int) -> int:
        """That a step trains on."""
        return step // self.cycle

    def part(self, step: int) -> int:
        """The slice of its groups."""
        return step % self.cycle % self.steps_per_generation

    def begun_at(self, step: int) -> range:
        """The generations that are begun by the weights before a step."""
        if step % self.cycle:
            return range(0)
        generation = self.generation(step)
        return range(0 if step == 0 else generation + self.staleness, generation + self.staleness + 1)
